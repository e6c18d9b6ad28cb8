// SPDX-License-Identifier: Apache-2.0
// One row of attention on the device (layer: kernel): which keys it sees, which a modifier changes,
// and the sums that a warp or a block makes over it. docs/mathematics.md, "Zero".
#pragma once

#include "zerotune/kernel/cuda/arguments.cuh"
#include "zerotune/kernel/cuda/context.cuh"
#include "zerotune/policy/compose.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/limits.hpp"
#include "zerotune/policy/masks.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace cuda {

inline constexpr float lowest = -__FLT_MAX__;
inline constexpr float log2_e = 1.44269504088896341f;
inline constexpr float ln_2 = 0.69314718055994531f;

/// A bias that hides its key.
ZEROTUNE_HOST_DEVICE inline bool hides(float bias) { return bias <= impl::mask_threshold<float>; }
/// A bias that stands for gamma = 0, and not for a mask.
ZEROTUNE_HOST_DEVICE inline bool excludes(float bias) {
  return bias <= impl::zero_threshold<float> && bias > impl::mask_threshold<float>;
}

/// Positions are below 2^24 (apply/ checks it), so that a float holds them.
ZEROTUNE_HOST_DEVICE inline float position(index_t kv_pos) { return static_cast<float>(kv_pos); }

/// What a row sees. Both ranges lie in [0, kv_length); `keep_excluded` marks a row in which gamma =
/// 0 would exclude all that is seen: it is computed as if gamma were 1.
struct row_view {
  row r;
  range seen;
  range changed;
  bool keep_excluded = false;
};

/// True if gamma = 0 excludes every key that the row sees, by positions and masks alone.
template <logit_modifier Modifier>
ZEROTUNE_HOST_DEVICE bool sees_excluded_only(const Modifier& m, row r, range seen, range changed) {
  if (seen.empty() || changed.size() != seen.size()) return false;
  bool any = false;
  for (index_t j = seen.begin; j < seen.end; ++j) {
    const float bias = impl::bias_part(m, r, position(j));
    if (hides(bias)) continue;
    if (!excludes(bias)) return false;
    any = true;
  }
  return any;
}

template <logit_modifier Modifier>
ZEROTUNE_HOST_DEVICE row_view view_row(const Modifier& m, row r, index_t kv_length) {
  row_view view;
  view.r = r;
  view.seen = intersect(visible_keys(m, r), range{0, kv_length});
  if (view.seen.empty()) view.seen = range{};
  view.changed = intersect(changed_keys(m, r), view.seen);
  if (view.changed.empty()) view.changed = range{view.seen.begin, view.seen.begin};
  view.keep_excluded = sees_excluded_only(m, r, view.seen, view.changed);
  return view;
}

/// True if the modifier leaves the row's seen logits alone.
template <logit_modifier Modifier>
ZEROTUNE_HOST_DEVICE bool leaves_alone(const Modifier& m, const row_view& view) {
  return view.changed.empty() ||
         m.effect(head_of{view.r.batch, view.r.head}, range{view.r.q_pos, view.r.q_pos + 1},
                  view.seen) == tile_effect::none;
}

/// How many keys of a row a modifier may change: at most one (initial_token) is added from a
/// register, more are asked for one by one. By type, so that a kernel carries one of the two.
enum class support_width { none, single, wide };

template <class Modifier>
inline constexpr support_width support_of = support_width::wide;

template <>
inline constexpr support_width support_of<identity> = support_width::none;
template <>
inline constexpr support_width support_of<causal> = support_width::none;
template <>
inline constexpr support_width support_of<sliding_window> = support_width::none;
template <>
inline constexpr support_width support_of<initial_token> = support_width::single;
template <class First, class Second>
inline constexpr support_width support_of<composition<First, Second>> =
    support_of<First> == support_width::none    ? support_of<Second>
    : support_of<Second> == support_width::none ? support_of<First>
                                                : support_width::wide;

/// Base of kernels that give each row a warp, four to a block.
template <int MinBlocks>
struct warp_per_row {
  static constexpr int threads = 4 * warp_size;
  static constexpr int min_blocks = MinBlocks;
};

/// Base of kernels that give each head of each sequence a block, whose threads add up in double.
struct block_per_head {
  static constexpr int threads = 8 * warp_size;
  static constexpr int min_blocks = 4;
  static constexpr index_t shared_bytes = (threads / warp_size) * index_t{sizeof(double)};
};

/// The head that a block works on, of a.geometry's shape; c.block() is its index.
template <context Context, class Arguments>
ZEROTUNE_HOST_DEVICE head_of head_of_block(Context& c, const Arguments& a) {
  const index_t num_heads = a.geometry.shape.num_heads;
  return {c.block() / num_heads, static_cast<int>(c.block() % num_heads)};
}

/// The row [batch, head, q] that a warp works on, of a.geometry's shape; false past the end.
template <context Context, class Arguments>
ZEROTUNE_HOST_DEVICE bool row_of_warp(Context& c, const Arguments& a, index_t* batch, index_t* head,
                                      index_t* q) {
  const attention_shape& shape = a.geometry.shape;
  index_t index = c.block() * c.warps() + c.warp();
  if (index >= shape.batch * shape.num_heads * shape.q_len) return false;
  *q = index % shape.q_len;
  index /= shape.q_len;
  *head = index % shape.num_heads;
  *batch = index / shape.num_heads;
  return true;
}

template <context Context>
ZEROTUNE_HOST_DEVICE float warp_max(Context& c, float x) {
#pragma unroll
  for (int mask = warp_size / 2; mask > 0; mask /= 2) {
    const float other = c.shuffle_xor(x, mask);
    x = other > x ? other : x;
  }
  return x;
}
template <context Context, class T>
ZEROTUNE_HOST_DEVICE T warp_sum(Context& c, T x) {
#pragma unroll
  for (int mask = warp_size / 2; mask > 0; mask /= 2) x += c.shuffle_xor(x, mask);
  return x;
}
template <context Context>
ZEROTUNE_HOST_DEVICE bool warp_any(Context& c, bool x) {
  return warp_sum(c, x ? 1 : 0) != 0;
}

/// Sum over the block, the same in every thread and every run. `scratch` holds a T per warp and may
/// be reused at once.
template <context Context, class T>
ZEROTUNE_HOST_DEVICE T block_sum(Context& c, T x, T* scratch) {
  x = warp_sum(c, x);
  if (c.lane() == 0) scratch[c.warp()] = x;
  c.barrier();
  T total = 0;
  for (int i = 0; i < c.warps(); ++i) total += scratch[i];
  c.barrier();
  return total;
}

}  // namespace cuda
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
