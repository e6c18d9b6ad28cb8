// SPDX-License-Identifier: Apache-2.0
// Attention without tensor cores (layer: kernel): float, any head dimension, any strides, every
// architecture from sm_75 on. A warp holds four rows, a lane one key of a tile; all in float.
#pragma once

#include "zerotune/kernel/cuda/attention_arguments.cuh"
#include "zerotune/kernel/cuda/scores.cuh"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace cuda {

/// Vector: rows of q, k and v are contiguous, 16-byte aligned and whole packets long.
template <element T, element Out, logit_modifier Modifier, bool Vector>
class generic_attention_kernel {
 public:
  using arguments = attention_arguments<T, Out, Modifier>;
  static constexpr const char* name = "generic_attention";
  static constexpr int threads = 4 * warp_size;
  static constexpr int min_blocks = 2;
  static constexpr int warp_rows = 4;
  static constexpr int tile_rows = warp_rows * threads / warp_size;
  static constexpr int tile_keys = warp_size;
  static constexpr int chunk = 32;  // of head_dim
  /// Between rows of a chunk: eight lanes that read 16 bytes each meet all banks once.
  static constexpr int pitch = chunk + 4;
  static constexpr int pass_columns = 128;  // of value_dim, in registers; more take further passes
  static constexpr index_t shared_bytes =
      ((tile_rows + tile_keys) * pitch + tile_keys * pass_columns + 2 * (threads / warp_size)) *
      index_t{sizeof(float)};

  template <context Context>
  ZEROTUNE_HOST_DEVICE static void run(Context& c, const arguments& a) {
    generic_attention_kernel kernel(c, a);
    for (index_t first = 0; first < a.value_dim; first += pass_columns) kernel.pass(c, a, first);
  }

 private:
  static constexpr int lane_columns = pass_columns / warp_size;

  template <context Context>
  ZEROTUNE_HOST_DEVICE generic_attention_kernel(Context& c, const arguments& a)
      : place_(a, c.block(), tile_rows),
        queries_(c.template shared<float>(tile_rows * pitch)),
        keys_(c.template shared<float>(tile_keys * pitch)),
        values_(c.template shared<float>(tile_keys * pass_columns)) {
    int begin = static_cast<int>(place_.sequence.kv_length), end = 0;
#pragma unroll
    for (int i = 0; i < warp_rows; ++i) {
      const int tile_row = c.warp() * warp_rows + i;
      const index_t q = place_.query(a, tile_row);
      if (q >= place_.sequence.q_length) continue;
      rows_[i] = make_score_row(a.modifier,
                                row{place_.batch, static_cast<int>(place_.head(a, tile_row)),
                                    place_.sequence.q_start + q},
                                place_.sequence.kv_length);
      if (rows_[i].seen_begin >= rows_[i].seen_end) continue;
      begin = rows_[i].seen_begin < begin ? rows_[i].seen_begin : begin;
      end = rows_[i].seen_end > end ? rows_[i].seen_end : end;
    }
    constexpr int warps = threads / warp_size;
    int* const begins = c.template shared<int>(2 * warps);
    int* const ends = begins + warps;
    if (c.lane() == 0) {
      begins[c.warp()] = begin;
      ends[c.warp()] = end;
    }
    c.barrier();
    for (int i = 0; i < warps; ++i) {
      begin = begins[i] < begin ? begins[i] : begin;
      end = ends[i] > end ? ends[i] : end;
    }
    if (a.partial.splits > 1) {
      const index_t from = place_.split * a.partial.keys_per_split,
                    to = from + a.partial.keys_per_split;
      begin = begin > from ? begin : static_cast<int>(from);
      end = end < to ? end : static_cast<int>(to);
    }
    seen_begin_ = begin;
    seen_end_ = end;
  }

  /// One walk over the keys for value columns [first, first + pass_columns).
  template <context Context>
  ZEROTUNE_HOST_DEVICE void pass(Context& c, const arguments& a, index_t first) {
    score_softmax state[warp_rows];
    float out[warp_rows][lane_columns] = {};
    for (int tile = seen_begin_ / tile_keys * tile_keys; tile < seen_end_; tile += tile_keys) {
      float s[warp_rows] = {};
      for (index_t column = 0; column < a.head_dim; column += chunk) {
        c.barrier();  // every warp has left the former chunk and the values
        stage_queries(c, a, column);
        stage(c, a, a.k, keys_, pitch, tile, column, chunk, a.head_dim);
        if (column == 0)
          stage(c, a, a.v, values_, pass_columns, tile, first, pass_columns, a.value_dim);
        c.barrier();
        multiply_keys(c, s);
      }
      update(c, a, tile, s, state, out);
      for (int key = 0; key < tile_keys; ++key) {
        float v[lane_columns];
#pragma unroll
        for (int i = 0; i < lane_columns; ++i)
          v[i] = values_[key * pass_columns + c.lane() + i * warp_size];
#pragma unroll
        for (int r = 0; r < warp_rows; ++r) {
          const float weight = c.shuffle(s[r], key);
          if (weight == 0.0f) continue;  // 0 * NaN: a hidden value is not used
#pragma unroll
          for (int i = 0; i < lane_columns; ++i) out[r][i] += weight * v[i];
        }
      }
    }
    finish(c, a, first, state, out);
  }

  /// Copies a chunk of the block's queries, zeros beyond the rows and head_dim.
  template <context Context>
  ZEROTUNE_HOST_DEVICE void stage_queries(Context& c, const arguments& a, index_t column) const {
    for (int i = c.thread(); i < tile_rows * chunk; i += threads) {
      const int tile_row = i / chunk;
      const index_t q = place_.query(a, tile_row), at = column + i % chunk;
      const bool valid = q < place_.sequence.q_length && at < a.head_dim;
      queries_[tile_row * pitch + i % chunk] =
          valid ? c.to_float(a.q.at(place_.batch, place_.head(a, tile_row),
                                    place_.sequence.q_offset + q)[at * a.q.column])
                : 0.0f;
    }
  }

  /// Copies columns [first, first + width) of a tile of keys or values; what no row sees is zero.
  template <context Context>
  ZEROTUNE_HOST_DEVICE void stage(Context& c, const arguments& a,
                                  const device_tensor<const T>& tensor, float* to, int to_pitch,
                                  int tile, index_t first, int width, index_t dim) const {
    constexpr int count = Vector ? packet<T>::count : 1;
    const int per_row = width / count;
    for (int i = c.thread(); i < tile_keys * per_row; i += threads) {
      const int row = i / per_row, at = i % per_row * count, key = tile + row;
      const bool valid = key >= seen_begin_ && key < seen_end_ && first + at < dim;
      float* const target = to + row * to_pitch + at;
      const T* const from =
          valid ? a.pages.key(tensor, place_.batch, place_.kv_head, place_.sequence.kv_offset, key)
                : nullptr;
      if constexpr (Vector) {
        packet<T> p{};
        if (valid) p = c.load(reinterpret_cast<const packet<T>*>(from + first + at));
#pragma unroll
        for (int j = 0; j < count; ++j) target[j] = c.to_float(p.values[j]);
      } else {
        *target = valid ? c.to_float(from[(first + at) * tensor.column]) : 0.0f;
      }
    }
  }

  /// s += q k^T over a chunk: four rows by the lane's key.
  template <context Context>
  ZEROTUNE_HOST_DEVICE void multiply_keys(Context& c, float (&s)[warp_rows]) const {
#pragma unroll
    for (int column = 0; column < chunk; column += 4) {
      const packet<float> k =
          c.load(reinterpret_cast<const packet<float>*>(keys_ + c.lane() * pitch + column));
#pragma unroll
      for (int r = 0; r < warp_rows; ++r) {
        const packet<float> q = c.load(reinterpret_cast<const packet<float>*>(
            queries_ + (c.warp() * warp_rows + r) * pitch + column));
#pragma unroll
        for (int i = 0; i < 4; ++i) s[r] += q.values[i] * k.values[i];
      }
    }
  }

  /// Modifies the scores, advances the softmax, leaves the exponentials in s.
  template <context Context>
  ZEROTUNE_HOST_DEVICE void update(Context& c, const arguments& a, int tile, float (&s)[warp_rows],
                                   score_softmax (&state)[warp_rows],
                                   float (&out)[warp_rows][lane_columns]) const {
    const int key = tile + c.lane();
#pragma unroll
    for (int r = 0; r < warp_rows; ++r) {
      float x = impl::minus_infinity(0.0f);
      if (key >= seen_begin_ && key < seen_end_)
        x = score(a.modifier, rows_[r], key, s[r], a.softmax_scale, &state[r].poison);
      float maximum = warp_max(c, x);
      maximum = maximum > state[r].maximum ? maximum : state[r].maximum;
      const float shrink = c.exp2(state[r].maximum - maximum);
      state[r].maximum = maximum;
      s[r] = c.exp2(x - maximum);
      state[r].sum = state[r].sum * shrink + s[r];
#pragma unroll
      for (int i = 0; i < lane_columns; ++i) out[r][i] *= shrink;
    }
  }

  template <context Context>
  ZEROTUNE_HOST_DEVICE void finish(Context& c, const arguments& a, index_t first,
                                   score_softmax (&state)[warp_rows],
                                   const float (&out)[warp_rows][lane_columns]) const {
#pragma unroll
    for (int r = 0; r < warp_rows; ++r) {
      state[r].sum = warp_sum(c, state[r].sum + state[r].poison);
      const int tile_row = c.warp() * warp_rows + r;
      const index_t q = place_.query(a, tile_row), h = place_.head(a, tile_row);
      if (q >= place_.sequence.q_length) continue;
      const bool none = state[r].saw_nothing();
      const bool split = a.partial.splits > 1;
      const index_t partial =
          split ? a.partial.row(a.geometry.shape, place_.split, place_.batch, h, q) : 0;
#pragma unroll
      for (int i = 0; i < lane_columns; ++i) {
        const index_t column = first + c.lane() + i * warp_size;
        if (column >= a.value_dim) continue;
        const float x = none ? 0.0f : out[r][i] / state[r].sum;
        if (split)
          a.partial.out[partial * a.value_dim + column] = x;
        else
          a.out.at(place_.batch, h, place_.sequence.q_offset + q)[column * a.out.column] =
              c.template round<Out>(x);
      }
      if (first > 0 || c.lane() != 0) continue;
      if (split)
        a.partial.lse[partial] = state[r].lse();
      else if (a.lse.data)
        *a.lse.at(place_.batch, h, place_.sequence.q_offset + q) = state[r].lse();
    }
  }

  block_place place_;
  float* queries_;
  float* keys_;
  float* values_;
  int seen_begin_ = 0, seen_end_ = 0;
  score_row rows_[warp_rows];
};

}  // namespace cuda
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
