// SPDX-License-Identifier: Apache-2.0
// The output form, sink mass and the gamma gradient on device tensors (layer: kernel).
// o' = o / D + (e^b - 1) e^t / D v_j, L' = L + log D, t = min(0, l_j - L); dL/d log gamma =
// sum a'_0 <dL/do', v_0 - o'>. docs/mathematics.md, "output".
#pragma once

#include "zerotune/kernel/cuda/rows.cuh"
#include "zerotune/kernel/output_row.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace cuda {

/// What the weight of a key is computed from: q.k and the LSE of the row.
template <element T>
struct weight_arguments {
  device_tensor<const T> q, k;
  device_rows<float> lse;  // natural, of the attention that wrote out
  page_table pages;        // of k and v
  index_t head_dim, group_size;
  float softmax_scale, softcap;
};

/// The weight of key j from the LSE of the row: e^min(0, l_j - L); the same in every lane.
template <element T, context Context>
ZEROTUNE_HOST_DEVICE float weight_from_lse(Context& c, const weight_arguments<T>& a, index_t b,
                                           index_t h, index_t q, const device_sequence& s,
                                           index_t j, float lse) {
  const T* const query = a.q.at(b, h, s.q_offset + q);
  const T* const key = a.pages.key(a.k, b, h / a.group_size, s.kv_offset, j);
  float logit = 0;
  for (index_t i = c.lane(); i < a.head_dim; i += warp_size)
    logit += c.to_float(query[i * a.q.column]) * c.to_float(key[i * a.k.column]);
  logit = warp_sum(c, logit) * a.softmax_scale;
  if (a.softcap > 0.0f) logit = a.softcap * impl::tanh_of(logit / a.softcap);
  const float t = logit - lse;
  return impl::exp_of(t < 0.0f ? t : 0.0f);
}

template <element T, class Modifier>
struct correct_arguments {
  device_tensor<T> out;  // corrected in place
  device_tensor<const T> v;
  device_rows<const float> mass;     // a_0 of each row instead of q.k and the LSE, or null
  device_rows<std::uint8_t> status;  // row_status of each row, or null
  weight_arguments<T> weight;
  device_geometry geometry;
  index_t value_dim;
  float min_d;
  Modifier modifier;
};

/// Corrects a black box's output and LSE in place, one warp per row.
template <element T, bias_modifier Modifier>
struct correct_kernel : warp_per_row<6> {
  using arguments = correct_arguments<T, Modifier>;
  static constexpr const char* name = "correct_output";

  template <context Context>
  ZEROTUNE_HOST_DEVICE static void run(Context& c, const arguments& a) {
    index_t b = 0, h = 0, q = 0;
    if (!row_of_warp(c, a, &b, &h, &q)) return;
    const device_sequence s = a.geometry.of(b);
    if (q >= s.q_length) return;
    const row_status status = correct(c, a, b, h, q, s);
    if (a.status.data && c.lane() == 0)
      *a.status.at(b, h, s.q_offset + q) = static_cast<std::uint8_t>(status);
  }

 private:
  template <context Context>
  ZEROTUNE_HOST_DEVICE static row_status correct(Context& c, const arguments& a, index_t b,
                                                 index_t h, index_t q, const device_sequence& s) {
    const row r{b, static_cast<int>(h), s.q_start + q};
    const row_view view = view_row(a.modifier, r, s.kv_length);
    if (view.changed.empty() || view.keep_excluded) return row_status::unchanged;
    float* const lse = a.weight.lse.data ? a.weight.lse.at(b, h, s.q_offset + q) : nullptr;
    // The output is the only key's value under every gamma; its LSE is not.
    if (view.seen.size() == 1) {
      const float bias = a.modifier.log_bias(r, position(view.seen.begin));
      if (bias == 0.0f || hides(bias)) return row_status::unchanged;
      if (lse && c.lane() == 0) *lse += bias;
      return row_status::corrected;
    }
    const float former = lse ? *lse : 0.0f;
    const auto ask = [&](index_t j) {
      return a.mass.data ? *a.mass.at(b, h, s.q_offset + q)
                         : weight_from_lse(c, a.weight, b, h, q, s, j, former);
    };
    const bool single = view.changed.size() == 1;  // the usual case: one product q.k
    const float first_weight = single ? ask(view.changed.begin) : 0.0f;
    const auto weight = [&](index_t j) { return single ? first_weight : ask(j); };
    float d = 1.0f;
    for (index_t j = view.changed.begin; j < view.changed.end; ++j) {
      const float bias = a.modifier.log_bias(r, position(j));
      if (bias != 0.0f && !hides(bias)) d += ::expm1f(bias) * weight(j);
    }
    if (d == 1.0f) return row_status::unchanged;
    if (!(d >= a.min_d)) return row_status::amplified;
    T* const out = a.out.at(b, h, s.q_offset + q);
    for (index_t first = 0; first < a.value_dim; first += warp_size) {
      const index_t column = first + c.lane();
      const bool inside = column < a.value_dim;
      float sum = inside ? c.to_float(out[column * a.out.column]) / d : 0.0f;
      for (index_t j = view.changed.begin; j < view.changed.end; ++j) {
        const float bias = a.modifier.log_bias(r, position(j));
        if (bias == 0.0f || hides(bias)) continue;
        const float factor = ::expm1f(bias) * weight(j) / d;
        const T* const value = a.weight.pages.key(a.v, b, h / a.weight.group_size, s.kv_offset, j);
        if (inside) sum += factor * c.to_float(value[column * a.v.column]);
      }
      if (inside) out[column * a.out.column] = c.template round<T>(sum);
    }
    c.warp_barrier();  // every lane has read the LSE
    if (lse && c.lane() == 0) *lse = former + impl::log_of(d);
    return row_status::corrected;
  }
};

template <element T, class Sink, bias_modifier Masks>
struct gradient_arguments {
  device_tensor<const T> out, d_out, v;
  weight_arguments<T> weight;  // lse: of the modified attention
  device_geometry geometry;
  index_t value_dim;
  double* gradient;  // [batch, num_heads], contiguous
  Sink sink;
  Masks masks;
};

/// dL/d log gamma of each head: one block per (sequence, head), its warps walk the rows.
template <element T, class Sink, bias_modifier Masks>
struct gradient_kernel : block_per_head {
  using arguments = gradient_arguments<T, Sink, Masks>;
  static constexpr const char* name = "gamma_gradient";

  template <context Context>
  ZEROTUNE_HOST_DEVICE static void run(Context& c, const arguments& a) {
    double* const scratch = c.template shared<double>(c.warps());
    const auto [b, h] = head_of_block(c, a);
    const device_sequence s = a.geometry.of(b);
    const index_t initial = a.sink.position(b);
    const float log_gamma = impl::log_gamma<float>(a.sink.gamma(h));
    double total = 0;
    for (index_t q = c.warp(); q < s.q_length; q += c.warps()) {
      const row r{b, h, s.q_start + q};
      const range seen =
          intersect(intersect(visible_keys(a.masks, r), {0, s.kv_length}), visible_keys(a.sink, r));
      if (!seen.contains(initial) || seen.size() == 1) continue;
      const float weight = weight_from_lse(c, a.weight, b, h, q, s, initial,
                                           *a.weight.lse.at(b, h, s.q_offset + q) - log_gamma);
      const T* const out = a.out.at(b, h, s.q_offset + q);
      const T* const d_out = a.d_out.at(b, h, s.q_offset + q);
      const T* const value =
          a.weight.pages.key(a.v, b, h / a.weight.group_size, s.kv_offset, initial);
      float product = 0;
      for (index_t i = c.lane(); i < a.value_dim; i += warp_size)
        product += c.to_float(d_out[i * a.d_out.column]) *
                   (c.to_float(value[i * a.v.column]) - c.to_float(out[i * a.out.column]));
      if (weight > 0.0f) total += static_cast<double>(weight * product);  // 0 * NaN
    }
    total = block_sum(c, total, scratch);
    if (c.thread() == 0) a.gradient[c.block()] = total;
  }
};

/// Mean weight on the initial token per head, over the rows that see more than it.
template <element T, class Sink, bias_modifier Masks>
struct sink_mass_kernel : block_per_head {
  struct arguments {
    device_tensor<const T> weights;
    double* mass;  // [batch, num_heads], contiguous
    device_geometry geometry;
    Sink sink;
    Masks masks;
  };
  static constexpr const char* name = "sink_mass";

  template <context Context>
  ZEROTUNE_HOST_DEVICE static void run(Context& c, const arguments& a) {
    double* const scratch = c.template shared<double>(c.warps());
    const auto [b, h] = head_of_block(c, a);
    const device_sequence s = a.geometry.of(b);
    const index_t initial = a.sink.position(b);
    double sum = 0, count = 0;
    for (index_t q = c.thread(); q < s.q_length; q += c.threads()) {
      const row r{b, h, s.q_start + q};
      const range seen = intersect(visible_keys(a.masks, r), {0, s.kv_length});
      if (!seen.contains(initial) || seen.end - initial < 2) continue;
      sum += static_cast<double>(c.to_float(a.weights.at(b, h, q)[initial * a.weights.column]));
      count += 1;
    }
    sum = block_sum(c, sum, scratch);
    count = block_sum(c, count, scratch);
    if (c.thread() == 0) a.mass[c.block()] = count > 0 ? sum / count : 0.0;
  }
};

}  // namespace cuda
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
