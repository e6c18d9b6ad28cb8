// SPDX-License-Identifier: Apache-2.0
// initial_token: ZeroTuning's modifier (layer: policy). a'_0 = gamma a_0 / D, a'_j = a_j / D with
// D = 1 + (gamma - 1) a_0, which is l_0 += log gamma before softmax (arXiv 2505.11739, section 3).
#pragma once

#include <string>

#include "zerotune/policy/head_gammas.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

/// Multiplies the attention paid to each sequence's initial token by gamma and renormalises.
class initial_token {
 public:
  /// @param gammas  one gamma, or a view [num_heads] of one per query head (it must outlive the
  ///                modifier); finite and >= 0, checked where it is used
  ZEROTUNE_HOST_DEVICE constexpr explicit initial_token(head_gammas gammas) : gammas_(gammas) {}
  constexpr explicit initial_token(float gamma) : gammas_(gamma) {}
  template <class T>
  constexpr explicit initial_token(tensor_view<T, 1> gammas) : gammas_(gammas) {}

  /// The same, with the initial token of sequence b at positions[b]; keys before it are padding
  /// and hidden.
  /// @param positions  [batch], each in [0, kv_len); must outlive the modifier
  ZEROTUNE_HOST_DEVICE constexpr initial_token at(tensor_view<const index_t, 1> positions) const {
    initial_token copy = *this;
    copy.positions_ = positions;
    return copy;
  }

  ZEROTUNE_HOST_DEVICE constexpr float gamma(index_t head) const { return gammas_[head]; }
  ZEROTUNE_HOST_DEVICE constexpr index_t position(index_t batch) const {
    return positions_.data() ? positions_(batch) : 0;
  }

  template <class Batch>
  ZEROTUNE_HOST_DEVICE Batch log_bias(row r, Batch kv_pos) const {
    using real = impl::value_of<Batch>;
    using zerotune::select;
    const Batch initial(static_cast<real>(position(r.batch)));
    const Batch bias(impl::log_gamma<real>(gamma(r.head)));
    const Batch here = select(kv_pos == initial, bias, Batch(real(0)));
    return select(kv_pos < initial, Batch(impl::mask_bias<real>()), here);
  }
  /// e^log_bias of a visible key, without its logarithm.
  ZEROTUNE_HOST_DEVICE constexpr double factor(row r, index_t kv_pos) const {
    return kv_pos == position(r.batch) ? static_cast<double>(gamma(r.head)) : 1.0;
  }
  ZEROTUNE_HOST_DEVICE constexpr range visible(row r) const {
    return {positions_.data() ? position(r.batch) : everywhere.begin, everywhere.end};
  }
  ZEROTUNE_HOST_DEVICE constexpr range support(row r) const {
    const index_t initial = position(r.batch);
    return {initial, gamma(r.head) == 1.0f ? initial : initial + 1};
  }
  ZEROTUNE_HOST_DEVICE constexpr tile_effect effect(head_of head, range, range kv) const {
    const index_t initial = position(head.batch);
    if (positions_.data() && kv.end <= initial) return tile_effect::masked;
    if (positions_.data() && kv.begin < initial) return tile_effect::apply;
    return kv.contains(initial) && gamma(head.head) != 1.0f ? tile_effect::apply
                                                            : tile_effect::none;
  }

  /// @throws invalid_argument for a gamma or a position that does not fit the shape
  void check(const char* function, const attention_shape& shape) const {
    gammas_.check(function, "initial_token", shape.num_heads);
    check_positions(function, shape);
  }
  void check_positions(const char* function, const attention_shape& shape) const {
    impl::check_positions(function, positions_, shape.batch, shape.kv_len);
  }

 private:
  head_gammas gammas_;
  tensor_view<const index_t, 1> positions_;
};

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
