// SPDX-License-Identifier: Apache-2.0
// Flash attention forward on tensor cores with any modifier (layer: kernel), float16 and bfloat16,
// sm_80 and later. A warp holds 16 rows; keys and values go through shared memory a tile at a time,
// each copied while the other is used. arXiv 2307.08691 (the order of the copies).
#pragma once

#include "zerotune/kernel/cuda/attention_arguments.cuh"
#include "zerotune/kernel/cuda/scores.cuh"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace cuda {

/// Prefill with Warps = 4 (64 rows a block), decode with Warps = 1 (the heads of a group as rows).
/// @pre contiguous, 16-byte aligned rows of q, k, v and out; head_dim == value_dim == HeadDim
template <mma_element T, int HeadDim, int Warps, logit_modifier Modifier>
class flash_kernel {
  static_assert(HeadDim % 16 == 0 && HeadDim <= 256);

 public:
  using arguments = attention_arguments<T, T, Modifier>;
  static constexpr const char* name = "flash_attention";
  static constexpr int threads = Warps * warp_size;
  static constexpr int min_blocks = Warps == 1 ? 4 : HeadDim <= 128 ? 2 : 1;
  static constexpr int tile_rows = 16 * Warps;
  static constexpr int tile_keys = HeadDim <= 128 ? 64 : 32;
  /// An odd number of 16 bytes between rows: ldmatrix meets eight different banks.
  static constexpr int pitch = HeadDim + 8;
  /// Beyond 128 the queries stay in shared memory: registers hold the output.
  static constexpr bool queries_in_registers = HeadDim <= 128;
  static constexpr index_t shared_bytes =
      (2 * tile_keys + (queries_in_registers ? 0 : tile_rows)) * pitch * index_t{sizeof(T)} +
      (2 * Warps * index_t{sizeof(int)} + 15) / 16 * 16;

  template <context Context>
  ZEROTUNE_HOST_DEVICE static void run(Context& c, const arguments& a) {
    flash_kernel(c, a).template attend<Context>(c, a);
  }

 private:
  static constexpr int steps = HeadDim / 16;        // of the product q.k
  static constexpr int key_groups = tile_keys / 8;  // columns of mma: keys, then value columns
  static constexpr int columns = HeadDim / 8;
  static constexpr int packets = HeadDim / packet<T>::count;
  static constexpr int copies_at_once = HeadDim <= 128 ? 4 : 2;  // more addresses would be spilled

  template <context Context>
  ZEROTUNE_HOST_DEVICE flash_kernel(Context& c, const arguments& a)
      : place_(a, c.block(), tile_rows),
        keys_(c.template shared<T>(tile_keys * pitch)),
        values_(c.template shared<T>(tile_keys * pitch)),
        queries_(queries_in_registers ? values_ : c.template shared<T>(tile_rows * pitch)) {
    // A thread holds rows lane / 4 and lane / 4 + 8 of its warp's 16.
    int begin = static_cast<int>(place_.sequence.kv_length), end = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int tile_row = c.warp() * 16 + c.lane() / 4 + half * 8;
      const index_t q = place_.query(a, tile_row);
      if (q >= place_.sequence.q_length) continue;
      rows_[half] = make_score_row(a.modifier,
                                   row{place_.batch, static_cast<int>(place_.head(a, tile_row)),
                                       place_.sequence.q_start + q},
                                   place_.sequence.kv_length);
      if (rows_[half].seen_begin >= rows_[half].seen_end) continue;
      begin = rows_[half].seen_begin < begin ? rows_[half].seen_begin : begin;
      end = rows_[half].seen_end > end ? rows_[half].seen_end : end;
    }
    // The keys that any row of the block sees, in this split.
    int* const begins = c.template shared<int>(2 * Warps);
    int* const ends = begins + Warps;
#pragma unroll
    for (int mask = 4; mask < warp_size; mask *= 2) {
      const int other_begin = c.shuffle_xor(begin, mask), other_end = c.shuffle_xor(end, mask);
      begin = other_begin < begin ? other_begin : begin;
      end = other_end > end ? other_end : end;
    }
    if (c.lane() == 0) {
      begins[c.warp()] = begin;
      ends[c.warp()] = end;
    }
    c.barrier();
    for (int i = 0; i < Warps; ++i) {
      begin = begins[i] < begin ? begins[i] : begin;
      end = ends[i] > end ? ends[i] : end;
    }
    const index_t from = place_.split * a.partial.keys_per_split;
    if (a.partial.splits > 1) {
      const index_t to = from + a.partial.keys_per_split;
      begin = begin > from ? begin : static_cast<int>(from);
      end = end < to ? end : static_cast<int>(to);
    }
    seen_begin_ = begin;
    seen_end_ = end;
    if (a.heads_per_tile > 1) return;
    const int first = c.warp() * 16;
    block_positions_ = place_.positions(a, 0, tile_rows);
    warp_positions_ = place_.positions(a, first, first + 16);
  }

  template <context Context>
  ZEROTUNE_HOST_DEVICE void attend(Context& c, const arguments& a) {
    copy_queries(c, a);
    int tile = next_tile(a, seen_begin_ / tile_keys * tile_keys);
    copy_keys(c, a, a.k, keys_, tile);
    c.template wait_copies<1>();
    c.barrier();
    std::uint32_t q[queries_in_registers ? steps : 1][4];
    if constexpr (queries_in_registers) {
#pragma unroll
      for (int step = 0; step < steps; ++step) load_queries(c, step, q[step]);
    }
    while (tile < seen_end_) {
      c.template wait_copies<0>();
      c.barrier();  // the keys are there, and every warp has left the values
      copy_keys(c, a, a.v, values_, tile);
      const tile_effect effect = warp_effect(a, tile);
      float s[key_groups][4] = {};
      if (effect != tile_effect::masked) {
        multiply_keys(c, q, s);
        update_softmax(c, a, tile, effect, s);
      }
      const int following = next_tile(a, tile + tile_keys);
      c.template wait_copies<0>();
      c.barrier();  // the values are there, and every warp has left the keys
      copy_keys(c, a, a.k, keys_, following);
      if (effect != tile_effect::masked) multiply_values(c, s);
      tile = following;
    }
    finish(c, a);
  }

  /// The next tile from `tile` on that not every row is barred from.
  ZEROTUNE_HOST_DEVICE int next_tile(const arguments& a, int tile) const {
    if (a.heads_per_tile > 1) return tile;
    while (tile < seen_end_ &&
           a.modifier.effect(head(), block_positions_, tile_range(tile)) == tile_effect::masked)
      tile += tile_keys;
    return tile;
  }

  ZEROTUNE_HOST_DEVICE head_of head() const {
    return {place_.batch, static_cast<int>(place_.first_head)};
  }
  ZEROTUNE_HOST_DEVICE range tile_range(int tile) const {
    return intersect(range{tile, tile + tile_keys}, range{0, place_.sequence.kv_length});
  }

  /// What the modifier does to the tile in this warp's rows; an incomplete tile counts as changed.
  ZEROTUNE_HOST_DEVICE tile_effect warp_effect(const arguments& a, int tile) const {
    if (a.heads_per_tile > 1) return tile_effect::apply;
    if (warp_positions_.empty()) return tile_effect::masked;
    const tile_effect effect = a.modifier.effect(head(), warp_positions_, tile_range(tile));
    const bool whole = tile >= seen_begin_ && tile + tile_keys <= seen_end_;
    return effect == tile_effect::none && !whole ? tile_effect::apply : effect;
  }

  template <context Context>
  ZEROTUNE_HOST_DEVICE void copy_queries(Context& c, const arguments& a) const {
#pragma unroll copies_at_once
    for (int i = c.thread(); i < tile_rows * packets; i += threads) {
      const int tile_row = i / packets, column = i % packets * packet<T>::count;
      const index_t q = place_.query(a, tile_row);
      const bool valid = q < place_.sequence.q_length;
      const T* const from =
          valid ? a.q.at(place_.batch, place_.head(a, tile_row), place_.sequence.q_offset + q)
                : a.q.data;
      c.copy_async(queries_ + tile_row * pitch + column, from + column, valid);
    }
    c.commit_copies();
  }

  /// Starts copying a tile of keys or of values; those that no row sees are not read.
  template <context Context>
  ZEROTUNE_HOST_DEVICE void copy_keys(Context& c, const arguments& a,
                                      const device_tensor<const T>& tensor, T* to, int tile) const {
    if (tile < seen_end_) {
#pragma unroll copies_at_once
      for (int i = c.thread(); i < tile_keys * packets; i += threads) {
        const int row = i / packets, column = i % packets * packet<T>::count;
        const int key = tile + row;
        const bool valid = key >= seen_begin_ && key < seen_end_;
        const T* const from = valid ? a.pages.key(tensor, place_.batch, place_.kv_head,
                                                  place_.sequence.kv_offset, key)
                                    : tensor.data;
        c.copy_async(to + row * pitch + column, from + column, valid);
      }
    }
    c.commit_copies();
  }

  template <context Context>
  ZEROTUNE_HOST_DEVICE void load_queries(Context& c, int step, std::uint32_t (&q)[4]) const {
    const int row = c.warp() * 16 + c.lane() % 16, column = step * 16 + c.lane() / 16 * 8;
    c.load_matrices(q, queries_ + row * pitch + column);
  }

  /// s = q k^T: rows of the warp by the tile's keys.
  template <context Context, int Steps>
  ZEROTUNE_HOST_DEVICE void multiply_keys(Context& c, const std::uint32_t (&q)[Steps][4],
                                          float (&s)[key_groups][4]) const {
#pragma unroll
    for (int step = 0; step < steps; ++step) {
      std::uint32_t from_shared[4];
      if constexpr (!queries_in_registers) load_queries(c, step, from_shared);
      const auto& fragment = [&]() -> const std::uint32_t(&)[4] {
        if constexpr (queries_in_registers)
          return q[step];
        else
          return from_shared;
      }();
#pragma unroll
      for (int group = 0; group < key_groups; group += 2) {
        std::uint32_t k[4];
        const int row = group * 8 + c.lane() / 16 * 8 + c.lane() % 8;
        const int column = step * 16 + c.lane() / 8 % 2 * 8;
        c.load_matrices(k, keys_ + row * pitch + column);
        const std::uint32_t first[2] = {k[0], k[1]}, second[2] = {k[2], k[3]};
        c.template mma<T>(s[group], fragment, first);
        c.template mma<T>(s[group + 1], fragment, second);
      }
    }
  }

  /// Modifies the scores and turns them into exponentials of their distance to the maximum.
  template <context Context>
  ZEROTUNE_HOST_DEVICE void update_softmax(Context& c, const arguments& a, int tile,
                                           tile_effect effect, float (&s)[key_groups][4]) {
    if (effect == tile_effect::none) {
#pragma unroll
      for (int group = 0; group < key_groups; ++group)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          s[group][i] = plain_score(s[group][i], a.softmax_scale, &state_[i / 2].poison);
    } else {
#pragma unroll
      for (int group = 0; group < key_groups; ++group)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          s[group][i] = score(a.modifier, rows_[i / 2], tile + group * 8 + c.lane() % 4 * 2 + i % 2,
                              s[group][i], a.softmax_scale, &state_[i / 2].poison);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      score_softmax& state = state_[half];
      float maximum = state.maximum;
#pragma unroll
      for (int group = 0; group < key_groups; ++group)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float x = s[group][2 * half + i];
          maximum = x > maximum ? x : maximum;
        }
#pragma unroll
      for (int mask = 1; mask < 4; mask *= 2) {
        const float other = c.shuffle_xor(maximum, mask);
        maximum = other > maximum ? other : maximum;
      }
      const float shrink = c.exp2(state.maximum - maximum);
      state.maximum = maximum;
      state.sum *= shrink;
#pragma unroll
      for (int column = 0; column < columns; ++column) {
        out_[column][2 * half] *= shrink;
        out_[column][2 * half + 1] *= shrink;
      }
#pragma unroll
      for (int group = 0; group < key_groups; ++group)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& x = s[group][2 * half + i];
          x = c.exp2(x - maximum);
          state.sum += x;
        }
    }
  }

  /// out += p v; the accumulators of two groups of keys are the operand of one step.
  template <context Context>
  ZEROTUNE_HOST_DEVICE void multiply_values(Context& c, const float (&p)[key_groups][4]) {
#pragma unroll
    for (int step = 0; step < tile_keys / 16; ++step) {
      const auto& low = p[2 * step];
      const auto& high = p[2 * step + 1];
      const std::uint32_t weights[4] = {
          c.template pack<T>(low[0], low[1]), c.template pack<T>(low[2], low[3]),
          c.template pack<T>(high[0], high[1]), c.template pack<T>(high[2], high[3])};
#pragma unroll
      for (int column = 0; column < columns; column += 2) {
        std::uint32_t v[4];
        const int row = step * 16 + c.lane() % 16;
        c.load_matrices_transposed(v, values_ + row * pitch + column * 8 + c.lane() / 16 * 8);
        const std::uint32_t first[2] = {v[0], v[1]}, second[2] = {v[2], v[3]};
        c.template mma<T>(out_[column], weights, first);
        c.template mma<T>(out_[column + 1], weights, second);
      }
    }
  }

  template <context Context>
  ZEROTUNE_HOST_DEVICE void finish(Context& c, const arguments& a) {
    c.barrier();  // every warp has left the values, whose place the output takes
    T* const staged = queries_ + c.warp() * 16 * pitch;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      score_softmax& state = state_[half];
      state.sum += state.poison;
      state.sum += c.shuffle_xor(state.sum, 1);
      state.sum += c.shuffle_xor(state.sum, 2);
      const bool none = state.saw_nothing();
      const float inverse = none ? 0.0f : c.reciprocal(state.sum);
      const int warp_row = c.lane() / 4 + half * 8, tile_row = c.warp() * 16 + warp_row;
      const index_t q = place_.query(a, tile_row), h = place_.head(a, tile_row);
      const bool valid = q < place_.sequence.q_length;
#pragma unroll
      for (int column = 0; column < columns; ++column)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& x = out_[column][2 * half + i];
          x = none ? 0.0f : x * inverse;
        }
      if (a.partial.splits > 1) {
        if (!valid) continue;
        const index_t partial = a.partial.row(a.geometry.shape, place_.split, place_.batch, h, q);
        float* const out = a.partial.out + partial * HeadDim + c.lane() % 4 * 2;
#pragma unroll
        for (int column = 0; column < columns; ++column) {
          out[column * 8] = out_[column][2 * half];
          out[column * 8 + 1] = out_[column][2 * half + 1];
        }
        if (c.lane() % 4 == 0) a.partial.lse[partial] = state.lse();
      } else {
#pragma unroll
        for (int column = 0; column < columns; ++column)
          *reinterpret_cast<std::uint32_t*>(staged + warp_row * pitch + column * 8 +
                                            c.lane() % 4 * 2) =
              c.template pack<T>(out_[column][2 * half], out_[column][2 * half + 1]);
        if (valid && a.lse.data && c.lane() % 4 == 0)
          *a.lse.at(place_.batch, h, place_.sequence.q_offset + q) = state.lse();
      }
    }
    if (a.partial.splits > 1) return;
    c.warp_barrier();
#pragma unroll copies_at_once
    for (int i = c.lane(); i < 16 * packets; i += warp_size) {
      const int warp_row = i / packets, column = i % packets * packet<T>::count;
      const int tile_row = c.warp() * 16 + warp_row;
      const index_t q = place_.query(a, tile_row);
      if (q >= place_.sequence.q_length) continue;
      T* const to =
          a.out.at(place_.batch, place_.head(a, tile_row), place_.sequence.q_offset + q) + column;
      c.store(reinterpret_cast<packet<T>*>(to),
              c.load(reinterpret_cast<const packet<T>*>(staged + warp_row * pitch + column)));
    }
  }

  block_place place_;
  T* keys_;
  T* values_;
  T* queries_;
  int seen_begin_ = 0, seen_end_ = 0;
  range block_positions_, warp_positions_;  // of the queries, where a tile is of one head
  score_row rows_[2];
  score_softmax state_[2];
  float out_[columns][4] = {};
};

}  // namespace cuda
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
