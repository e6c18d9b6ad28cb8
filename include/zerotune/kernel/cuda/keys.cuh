// SPDX-License-Identifier: Apache-2.0
// The key forms on device tensors (layer: kernel): augmented queries, keys and values, and the
// paper's scaled key. docs/mathematics.md, "augmented key", "value indicator", "key scale".
#pragma once

#include "zerotune/kernel/cuda/rows.cuh"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace cuda {

/// Copies rows of [batch, heads, length, dim] and appends `extra` columns.
template <element T, class Modifier>
struct augment_arguments {
  device_tensor<const T> from;
  device_tensor<T> to;
  device_geometry geometry;  // of the copied tensor: num_heads and q_len are its heads and rows
  index_t dim;
  float inverse_scale;  // 1 / softmax_scale (queries only)
  Modifier modifier;
};

template <element T, class Modifier, context Context>
ZEROTUNE_HOST_DEVICE void copy_row(Context& c, const augment_arguments<T, Modifier>& a, index_t b,
                                   index_t h, index_t i) {
  const T* const from = a.from.at(b, h, i);
  T* const to = a.to.at(b, h, i);
  for (index_t column = c.lane(); column < a.dim; column += warp_size)
    to[column * a.to.column] = from[column * a.from.column];
}

/// Queries get log gamma / softmax_scale, split into a high and a low part in 16 bits.
template <element T, bias_modifier Modifier>
struct augment_query_kernel : warp_per_row<8> {
  using arguments = augment_arguments<T, Modifier>;
  static constexpr const char* name = "augment_query";

  template <context Context>
  ZEROTUNE_HOST_DEVICE static void run(Context& c, const arguments& a) {
    index_t b = 0, h = 0, q = 0;
    if (!row_of_warp(c, a, &b, &h, &q)) return;
    copy_row(c, a, b, h, q);
    if (c.lane() != 0) return;
    const device_sequence s = a.geometry.of(b);
    const row r{b, static_cast<int>(h), s.q_start + q};
    const row_view view = view_row(a.modifier, r, s.kv_length);
    float coordinate = 0.0f;
    if (!view.changed.empty() && !view.keep_excluded)
      coordinate = a.modifier.log_bias(r, position(view.changed.begin)) * a.inverse_scale;
    if (std::same_as<T, float16> && coordinate < -6e4f) coordinate = -6e4f;
    T* const extra = a.to.at(b, h, q) + a.dim * a.to.column;
    const T high = c.template round<T>(coordinate);
    extra[0] = high;
    if constexpr (sizeof(T) == 2)
      extra[a.to.column] = c.template round<T>(coordinate - c.to_float(high));
  }
};

/// Keys and values get `extra` columns: 1 at the initial token, 0 elsewhere. Modifier tells the
/// initial token's position.
template <element T, class Modifier, int Extra>
struct indicate_kernel : warp_per_row<8> {
  using arguments = augment_arguments<T, Modifier>;
  static constexpr const char* name = "augment_key";

  template <context Context>
  ZEROTUNE_HOST_DEVICE static void run(Context& c, const arguments& a) {
    index_t b = 0, h = 0, j = 0;
    if (!row_of_warp(c, a, &b, &h, &j)) return;
    copy_row(c, a, b, h, j);
    if (c.lane() >= Extra) return;
    a.to.at(b, h, j)[(a.dim + c.lane()) * a.to.column] =
        c.template round<T>(j == a.modifier.position(b) ? 1.0f : 0.0f);
  }
};

/// One factor per key-value head and the place of the initial tokens.
template <element T>
struct scale_keys_arguments {
  device_tensor<T> keys;
  const float* factors;      // [num_kv_heads] in device memory
  const index_t* positions;  // [batch]
  index_t batch, num_kv_heads, head_dim;
};

/// k_0 *= factor of its head, one warp per (sequence, key-value head).
template <element T>
struct scale_keys_kernel : warp_per_row<8> {
  using arguments = scale_keys_arguments<T>;
  static constexpr const char* name = "scale_keys";

  template <context Context>
  ZEROTUNE_HOST_DEVICE static void run(Context& c, const arguments& a) {
    const index_t index = c.block() * c.warps() + c.warp();
    if (index >= a.batch * a.num_kv_heads) return;
    const index_t b = index / a.num_kv_heads, h = index % a.num_kv_heads;
    const float factor = a.factors[h];
    if (factor == 1.0f) return;
    T* const key = a.keys.at(b, h, a.positions[b]);
    for (index_t column = c.lane(); column < a.head_dim; column += warp_size)
      key[column * a.keys.column] =
          c.template round<T>(c.to_float(key[column * a.keys.column]) * factor);
  }
};

}  // namespace cuda
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
