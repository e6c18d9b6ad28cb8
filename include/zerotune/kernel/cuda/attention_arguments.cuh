// SPDX-License-Identifier: Apache-2.0
// What the attention kernels take, and which rows a block works on (layer: kernel).
#pragma once

#include "zerotune/kernel/cuda/rows.cuh"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace cuda {

/// Partial results of attention that is split over keys, in the caller's workspace.
struct partial_results {
  float* out = nullptr;  // [splits, batch, num_heads, q_len, value_dim] if splits > 1
  float* lse = nullptr;  // [splits, batch, num_heads, q_len]
  index_t splits = 1;
  index_t keys_per_split = 0;  // a multiple of every kernel's tile

  ZEROTUNE_HOST_DEVICE index_t row(const attention_shape& shape, index_t split, index_t b,
                                   index_t h, index_t i) const {
    return ((split * shape.batch + b) * shape.num_heads + h) * shape.q_len + i;
  }
};

/// q, out, lse: [batch, num_heads, q_len, ...]; k, v: [batch, num_kv_heads, kv_len, ...] or pages.
template <element T, element Out, logit_modifier Modifier>
struct attention_arguments {
  device_tensor<const T> q, k, v;
  device_tensor<Out> out;
  device_rows<float> lse;  // natural, or null
  page_table pages;
  device_geometry geometry;
  index_t head_dim, value_dim, group_size;
  index_t heads_per_tile;  // group_size: the heads of a group share a tile (few queries); or 1
  float softmax_scale;
  partial_results partial;
  Modifier modifier;
};

/// The rows that a block works on: pairs (query, head) of one sequence, a head's queries or, where
/// heads_per_tile > 1, the heads of a group for each query. Tiles of late queries come first: under
/// a causal mask they take longest.
struct block_place {
  index_t batch, first_head, kv_head, split;
  index_t first_pair;  // of the tile, counted in its sequence and heads
  device_sequence sequence;

  template <class Arguments>
  ZEROTUNE_HOST_DEVICE block_place(const Arguments& a, index_t block, int tile_rows) {
    const attention_shape& shape = a.geometry.shape;
    const index_t tiles = (shape.q_len * a.heads_per_tile + tile_rows - 1) / tile_rows;
    const index_t units = shape.num_heads / a.heads_per_tile;
    const index_t tile = tiles - 1 - block % tiles;
    block /= tiles;
    first_head = block % units * a.heads_per_tile;
    block /= units;
    batch = block % shape.batch;
    split = block / shape.batch;
    kv_head = first_head / a.group_size;
    first_pair = tile * tile_rows;
    sequence = a.geometry.of(batch);
  }

  template <class Arguments>
  ZEROTUNE_HOST_DEVICE index_t query(const Arguments& a, int tile_row) const {
    return (first_pair + tile_row) / a.heads_per_tile;
  }
  template <class Arguments>
  ZEROTUNE_HOST_DEVICE index_t head(const Arguments& a, int tile_row) const {
    return first_head + (first_pair + tile_row) % a.heads_per_tile;
  }
  /// Positions of the queries in rows [first, last) of the tile.
  template <class Arguments>
  ZEROTUNE_HOST_DEVICE range positions(const Arguments& a, int first, int last) const {
    const index_t begin = query(a, first), end = query(a, last - 1) + 1;
    return {sequence.q_start + begin,
            sequence.q_start + (end < sequence.q_length ? end : sequence.q_length)};
  }
};

/// Blocks of a call.
template <class Arguments>
index_t attention_blocks(const Arguments& a, int tile_rows) {
  const attention_shape& shape = a.geometry.shape;
  const index_t tiles = (shape.q_len * a.heads_per_tile + tile_rows - 1) / tile_rows;
  return tiles * (shape.num_heads / a.heads_per_tile) * shape.batch * a.partial.splits;
}

}  // namespace cuda
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
