// SPDX-License-Identifier: Apache-2.0
// Merges the partial results of attention that was split over keys (layer: kernel):
// L = log sum e^{L_s}, o = sum e^{L_s - L} o_s. A split that saw nothing has L_s = -inf.
#pragma once

#include "zerotune/kernel/cuda/attention_arguments.cuh"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace cuda {

template <element Out>
struct merge_arguments {
  device_tensor<Out> out;
  device_rows<float> lse;  // natural, or null
  device_geometry geometry;
  partial_results partial;
  index_t value_dim;
};

/// One warp per row; the splits are merged in their order, so every run gives the same bits.
template <element Out>
struct merge_kernel : warp_per_row<8> {
  using arguments = merge_arguments<Out>;
  static constexpr const char* name = "merge_splits";

  template <context Context>
  ZEROTUNE_HOST_DEVICE static void run(Context& c, const arguments& a) {
    index_t b = 0, h = 0, q = 0;
    if (!row_of_warp(c, a, &b, &h, &q)) return;
    const device_sequence s = a.geometry.of(b);
    if (q >= s.q_length) return;
    const partial_results& p = a.partial;
    const auto row = [&](index_t split) { return p.row(a.geometry.shape, split, b, h, q); };
    float maximum = impl::minus_infinity(0.0f), poison = 0;
    for (index_t split = 0; split < p.splits; ++split) {
      const float lse = p.lse[row(split)];
      poison += lse > impl::minus_infinity(0.0f) || lse != lse ? lse * 0.0f : 0.0f;
      maximum = lse > maximum ? lse : maximum;
    }
    const bool none = !(maximum > impl::minus_infinity(0.0f)) && poison == 0.0f;
    float sum = poison;
    if (!none)
      for (index_t split = 0; split < p.splits; ++split)
        sum += impl::exp_of(p.lse[row(split)] - maximum);
    Out* const out = a.out.at(b, h, s.q_offset + q);
    for (index_t column = c.lane(); column < a.value_dim; column += warp_size) {
      float x = 0;
      if (!none)
        for (index_t split = 0; split < p.splits; ++split) {
          const float weight = impl::exp_of(p.lse[row(split)] - maximum);
          if (weight != 0.0f) x += weight * p.out[row(split) * a.value_dim + column];
        }
      out[column * a.out.column] = c.template round<Out>(none ? 0.0f : x / sum);
    }
    if (a.lse.data && c.lane() == 0)
      *a.lse.at(b, h, s.q_offset + q) =
          none ? impl::minus_infinity(0.0f) : maximum + impl::log_of(sum);
  }
};

}  // namespace cuda
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
