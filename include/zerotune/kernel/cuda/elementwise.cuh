// SPDX-License-Identifier: Apache-2.0
// The weights, logits and mask forms on device tensors (layer: kernel): one warp per row.
// docs/mathematics.md, "Weights form" and "Zero".
#pragma once

#include "zerotune/kernel/cuda/rows.cuh"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace cuda {

/// Rows of a dense [batch, num_heads, q_len, kv_len] tensor.
template <element T, logit_modifier Modifier>
struct row_arguments {
  device_tensor<T> rows;
  device_geometry geometry;
  Modifier modifier;
};

/// The warp's row of a dense tensor and what it sees; false past the end.
template <context Context, element T, class Modifier>
ZEROTUNE_HOST_DEVICE bool dense_row_of_warp(Context& c, const row_arguments<T, Modifier>& a,
                                            row_view* view, T** data) {
  index_t b = 0, h = 0, q = 0;
  if (!row_of_warp(c, a, &b, &h, &q)) return false;
  const device_sequence s = a.geometry.of(b);
  *view = view_row(a.modifier, row{b, static_cast<int>(h), s.q_start + q}, s.kv_length);
  *data = a.rows.at(b, h, q);
  return true;
}

/// The storage type's picture of a logit or bias: -inf for a hidden key; gamma = 0 stays finite.
template <element T, context Context>
ZEROTUNE_HOST_DEVICE T round_logit(Context& c, float value) {
  if (hides(value)) return c.template round<T>(impl::minus_infinity(0.0f));
  if (std::same_as<T, float16> && value < -6e4f) value = -6e4f;
  return c.template round<T>(value);
}

/// A logit that the host's own mask has hidden: -inf or the lowest finite value of the type.
template <element T>
ZEROTUNE_HOST_DEVICE bool is_hidden_logit(float value) {
  return std::same_as<T, float16> ? value <= -65504.0f : hides(value);
}

/// a'_j = a_j e^{b_j} / D, D = (sum_changed a_j e^{b_j} + S_rest) / (sum_changed a_j + S_rest).
template <element T, bias_modifier Modifier>
struct rescale_kernel : warp_per_row<8> {
  using arguments = row_arguments<T, Modifier>;
  static constexpr const char* name = "rescale_weights";

  template <context Context>
  ZEROTUNE_HOST_DEVICE static void run(Context& c, const arguments& a) {
    row_view view;
    T* weights = nullptr;
    if (!dense_row_of_warp(c, a, &view, &weights)) return;
    if (leaves_alone(a.modifier, view) || view.keep_excluded) return;
    const row r = view.r;
    const index_t stride = a.rows.column;

    float rest = 0, before = 0, after = 0;
    bool changes = false;
    for (index_t j = view.seen.begin + c.lane(); j < view.seen.end; j += warp_size) {
      const float weight = c.to_float(weights[j * stride]);
      if (!view.changed.contains(j)) {
        rest += weight;
        continue;
      }
      const float bias = a.modifier.log_bias(r, position(j));
      if (hides(bias)) continue;
      before += weight;
      after += weight * impl::exp_of(bias);
      changes |= bias != 0.0f && weight != 0.0f;
    }
    rest = warp_sum(c, rest);
    before = warp_sum(c, before);
    after = warp_sum(c, after);
    if (!warp_any(c, changes) || (rest == 0.0f && view.changed.size() == 1)) return;
    const float d = (after + rest) / (before + rest);
    if (d == 0.0f) return;  // gamma = 0 took all the weight that there was
    for (index_t j = view.seen.begin + c.lane(); j < view.seen.end; j += warp_size) {
      const float weight = c.to_float(weights[j * stride]);
      float scaled = weight / d;  // 1 / d may be beyond float where the weights are subnormal
      if (view.changed.contains(j)) {
        const float bias = a.modifier.log_bias(r, position(j));
        if (hides(bias)) continue;
        scaled = weight * impl::exp_of(bias) / d;
      }
      weights[j * stride] = c.template round<T>(scaled);
    }
  }
};

/// Transforms and biases in place, -inf where the modifier's masks hide a key.
template <element T, logit_modifier Modifier>
struct bias_kernel : warp_per_row<8> {
  using arguments = row_arguments<T, Modifier>;
  static constexpr const char* name = "bias_logits";

  template <context Context>
  ZEROTUNE_HOST_DEVICE static void run(Context& c, const arguments& a) {
    row_view view;
    T* logits = nullptr;
    if (!dense_row_of_warp(c, a, &view, &logits)) return;
    const row r = view.r;
    const index_t stride = a.rows.column;
    const T hidden = c.template round<T>(impl::minus_infinity(0.0f));
    const index_t kv_len = a.geometry.shape.kv_len;
    const index_t first = view.seen.empty() ? kv_len : view.seen.begin;
    for (index_t j = c.lane(); j < first; j += warp_size) logits[j * stride] = hidden;
    if (view.seen.empty()) return;
    for (index_t j = view.seen.end + c.lane(); j < kv_len; j += warp_size)
      logits[j * stride] = hidden;
    if (leaves_alone(a.modifier, view)) return;

    // gamma = 0 acts only where another logit is left: geometry says so, and the host's own masks.
    bool excluding = false, other = false;
    for (index_t j = view.changed.begin + c.lane(); j < view.changed.end; j += warp_size)
      excluding |= excludes(impl::bias_part(a.modifier, r, position(j)));
    bool zero_acts = true;
    if (warp_any(c, excluding)) {
      for (index_t j = view.seen.begin + c.lane(); j < view.seen.end; j += warp_size) {
        if (is_hidden_logit<T>(c.to_float(logits[j * stride]))) continue;
        const float bias =
            view.changed.contains(j) ? impl::bias_part(a.modifier, r, position(j)) : 0.0f;
        other |= !hides(bias) && !excludes(bias);
      }
      zero_acts = warp_any(c, other);
    }
    c.warp_barrier();  // every logit has been read before one is written
    for (index_t j = view.changed.begin + c.lane(); j < view.changed.end; j += warp_size) {
      const float logit = c.to_float(logits[j * stride]);
      if (is_hidden_logit<T>(logit)) continue;
      float bias = impl::bias_part(a.modifier, r, position(j));
      if (excludes(bias) && !zero_acts) bias = 0.0f;
      if (bias_modifier<Modifier> && bias == 0.0f) continue;
      const float transformed = impl::transform_part(a.modifier, r, position(j), logit);
      logits[j * stride] = round_logit<T>(c, transformed + bias);
    }
  }
};

/// The additive mask: the sum of the biases, -inf where a key is hidden.
template <element T, bias_modifier Modifier>
struct mask_kernel : warp_per_row<8> {
  using arguments = row_arguments<T, Modifier>;
  static constexpr const char* name = "fill_mask";

  template <context Context>
  ZEROTUNE_HOST_DEVICE static void run(Context& c, const arguments& a) {
    row_view view;
    T* mask = nullptr;
    if (!dense_row_of_warp(c, a, &view, &mask)) return;
    for (index_t j = c.lane(); j < a.geometry.shape.kv_len; j += warp_size) {
      float bias = view.seen.contains(j) ? 0.0f : impl::minus_infinity(0.0f);
      if (view.changed.contains(j)) bias = a.modifier.log_bias(view.r, position(j));
      if (view.keep_excluded && excludes(bias)) bias = 0.0f;
      mask[j * a.rows.column] = round_logit<T>(c, bias);
    }
  }
};

}  // namespace cuda
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
