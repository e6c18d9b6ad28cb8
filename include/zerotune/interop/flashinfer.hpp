// SPDX-License-Identifier: Apache-2.0
// Fragments for others' attention kernels (layer: interop): one modifier as the logits transform
// and mask of a kernel's variant hooks. FlashInfer's variants call `LogitsTransform` and
// `LogitsMask` with these arguments; nothing of FlashInfer is included. docs/cuda.md shows where it
// goes.
#pragma once

#include <cstdint>

#include "zerotune/policy/compose.hpp"
#include "zerotune/policy/initial_token.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace interop {

/// A variant's hooks over any modifier. Derive the variant from it, or keep it as a member and
/// forward; `Modifier` must hold device views only (zerotune::to_device).
///
/// FlashInfer computes softmax in the domain of log2 and multiplies the transformed logit by
/// log2(e) itself where the variant says so; a kernel that has multiplied q by log2(e) beforehand
/// passes `logit_unit = log2(e)`: the hook divides, transforms and multiplies again.
template <logit_modifier Modifier>
struct logits_variant {
  Modifier modifier;
  float softmax_scale = 1.0f;  ///< multiplies q.k before the modifier; 1 if the kernel has done so
  float logit_unit = 1.0f;     ///< 1, or log2(e)

  /// The modified logit, in the kernel's unit.
  /// @param logit    q.k of one key (times softmax_scale if the kernel has scaled)
  /// @param q_pos    position of the query in its sequence: kv_len - qo_len + qo_idx
  /// @param kv_pos   position of the key in its sequence
  ZEROTUNE_HOST_DEVICE float transform(float logit, index_t batch, int head, index_t q_pos,
                                       index_t kv_pos) const {
    const row r{batch, head, q_pos};
    return apply_to_logit(modifier, r, static_cast<float>(kv_pos),
                          logit * softmax_scale / logit_unit) *
           logit_unit;
  }
  /// False where the modifier hides the key.
  ZEROTUNE_HOST_DEVICE bool visible(index_t batch, int head, index_t q_pos, index_t kv_pos) const {
    return visible_keys(modifier, row{batch, head, q_pos}).contains(kv_pos);
  }

  /// FlashInfer's hook; `params` names qo_len and kv_len of the sequence as get_qo_len(batch_idx)
  /// and get_kv_len(batch_idx).
  template <class Params>
  ZEROTUNE_HOST_DEVICE float LogitsTransform(const Params& params, float logits,
                                             std::uint32_t batch_idx, std::uint32_t qo_idx,
                                             std::uint32_t kv_idx, std::uint32_t qo_head_idx,
                                             std::uint32_t) const {
    return transform(logits, batch_idx, static_cast<int>(qo_head_idx),
                     query_position(params, batch_idx, qo_idx), kv_idx);
  }
  /// FlashInfer's hook for masks; combine it with the kernel's own bounds.
  template <class Params>
  ZEROTUNE_HOST_DEVICE bool LogitsMask(const Params& params, std::uint32_t batch_idx,
                                       std::uint32_t qo_idx, std::uint32_t kv_idx,
                                       std::uint32_t qo_head_idx, std::uint32_t) const {
    return visible(batch_idx, static_cast<int>(qo_head_idx),
                   query_position(params, batch_idx, qo_idx), kv_idx);
  }

 private:
  template <class Params>
  ZEROTUNE_HOST_DEVICE static index_t query_position(const Params& params, std::uint32_t batch_idx,
                                                     std::uint32_t qo_idx) {
    return static_cast<index_t>(params.get_kv_len(static_cast<int>(batch_idx))) -
           static_cast<index_t>(params.get_qo_len(static_cast<int>(batch_idx))) + qo_idx;
  }
};

}  // namespace interop
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
