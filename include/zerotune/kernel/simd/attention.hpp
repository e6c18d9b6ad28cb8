// SPDX-License-Identifier: Apache-2.0
// Attention on the SIMD back end (layer: kernel): which products it is made
// with, and how a call is cut into tasks.
#pragma once

#include "zerotune/kernel/simd/decode.hpp"
#include "zerotune/kernel/simd/float_products.hpp"
#include "zerotune/kernel/simd/pair_products.hpp"
#include "zerotune/kernel/simd/panel_task.hpp"
#include "zerotune/kernel/simd/tile_products.hpp"
#include "zerotune/kernel/split_decode.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Attention by panels, with one kind of products.
template <class Arch, class Products, element Q, element KV, element Out>
struct panel_kernel {
  using problem = attention_problem<Q, KV, Out>;
  using shape = typename Products::shape;
  using scratch = panel_scratch<Products>;

  /// Panels that take turns go over a whole section of keys one after the other: more of them than
  /// a second-level cache holds share its packing.
  static constexpr index_t panel_multiple = Products::takes_turns ? 8 : 1;

  /// Panels share the packing of keys: a task of one panel would spend an eighth of its time on it.
  static constexpr index_t least_panels = 3;
  /// Half as many tasks are enough for the threads to end at about one time, where tasks would have
  /// fewer panels than this: at 512 queries, cutting 11 panels into 6 and 5 takes 1 to 4% longer.
  static constexpr index_t good_panels = 12;

  static attention_tiling tiling(const problem& p, const attention_plan& plan,
                                 index_t wanted_tasks) noexcept {
    attention_tiling t;
    // Of no sequence or head the sizes are those of one: a workspace is asked for before there are
    // any.
    const index_t all = p.g.shape.batch * p.num_kv_heads(), groups = all < 1 ? 1 : all;
    const index_t fitting = Products::block_multiple * plan.score_bytes /
                            (shape::width * static_cast<index_t>(sizeof(typename shape::real)));
    t.key_block = round_down(fitting < 32 ? 32 : fitting > 1024 ? 1024 : fitting, 32);
    const index_t block = scratch::block_bytes(t.key_block, p.head_dim(), p.value_dim());
    const index_t near = Products::takes_turns ? 2 * plan.task_bytes / block : 1;
    // Also where there are fewer keys: scratch memory does not depend on their number.
    t.blocks_per_section = near < 1 ? 1 : near;
    const index_t shared = scratch::shared_bytes(t.key_block) + t.blocks_per_section * block;
    const index_t each = scratch::panel_bytes(p.head_dim(), p.value_dim());
    const index_t left = panel_multiple * plan.task_bytes - shared;
    const index_t most = left > each ? left / each : 1;
    const auto fair = [&](index_t tasks) {
      const index_t of_group = (tasks + groups - 1) / groups;
      return (panels_of_group(p) + of_group - 1) / of_group;
    };
    index_t wanted = fair(wanted_tasks);
    if (wanted < good_panels) {
      const index_t larger = fair((wanted_tasks + 1) / 2);
      wanted = larger < good_panels ? larger : good_panels;
    }
    if (wanted < least_panels) wanted = least_panels;
    if (wanted > panels_of_group(p)) wanted = panels_of_group(p);
    if (wanted < 1) wanted = 1;
    t.panels_per_task = wanted < most ? wanted : most;
    t.tasks = all * tasks_of_group(p, t);
    t.scratch_bytes = shared + t.panels_per_task * each;
    return t;
  }

  template <logit_modifier Modifier>
  static void run(const problem& p, const Modifier& m, const attention_tiling& t, index_t task,
                  std::byte* memory) noexcept {
    // The last panels have the most keys where attention is causal: those of all groups begin
    // first, so that what the threads end with is small.
    const index_t groups = p.g.shape.batch * p.num_kv_heads(), group = task % groups;
    const index_t number = tasks_of_group(p, t) - 1 - task / groups;
    const range panels = intersect({number * t.panels_per_task, (number + 1) * t.panels_per_task},
                                   {0, panels_of_group(p)});
    panel_task<Arch, Products, Q, KV, Out, Modifier>(p, m, t, group / p.num_kv_heads(),
                                                     group % p.num_kv_heads(), memory)
        .run(panels.begin, panels.end);
  }

 private:
  static index_t panels_of_group(const problem& p) {
    return (p.g.shape.q_len + shape::width - 1) / shape::width * p.group_size();
  }
  static index_t tasks_of_group(const problem& p, const attention_tiling& t) {
    return (panels_of_group(p) + t.panels_per_task - 1) / t.panels_per_task;
  }
};

/// Attention by panels. Where most lanes would be idle it goes by decode, which takes the queries
/// of a group together and was measured to be up to 4 times as fast (0.75 to 0.9 for one head and
/// 64 keys, twice at 1024 keys); panels are faster from about one query more on, with bfloat16
/// tiles.
template <class Arch, element Q, element KV, element Out>
struct attention_kernel<backend::simd<Arch>, Q, KV, Out> {
  using problem = attention_problem<Q, KV, Out>;
  using batch = impl::batch<accumulator_t<KV>, Arch>;

  /// Wider heads go by rows; no model has them, and panels would outgrow the
  /// caches.
  static constexpr index_t widest_head = 1024;
  /// The most queries that go by decode.
  static constexpr index_t few_queries = lanes<batch> / 2;

  static product_kind kind() noexcept {
    if constexpr (std::is_same_v<Q, bfloat16> && std::is_same_v<KV, bfloat16>)
      return bfloat16_products();
    else
      return product_kind::numbers;
  }

  static attention_tiling tiling(const problem& p, const attention_plan& plan,
                                 index_t wanted_tasks) noexcept {
    return with_kernel(p, [&](auto kernel) { return kernel.tiling(p, plan, wanted_tasks); });
  }
  template <logit_modifier Modifier>
  static void run(const problem& p, const Modifier& m, const attention_tiling& t, index_t task,
                  std::byte* memory) noexcept {
    with_kernel(p, [&](auto kernel) { kernel.run(p, m, t, task, memory); });
  }

 private:
  template <class Body>
  static auto with_kernel(const problem& p, const Body& body) {
    const bool few = p.g.shape.q_len <= few_queries;
    if (few && decode_kernel<backend::simd<Arch>, Q, KV, Out>::takes(p))
      return body(decode_kernel<backend::simd<Arch>, Q, KV, Out>{});
    if (few || p.head_dim() > widest_head || p.value_dim() > widest_head)
      return body(row_kernel<backend::simd<Arch>, Q, KV, Out>{});
#if ZEROTUNE_HAS_AMX
    if constexpr (std::is_same_v<Q, bfloat16> && std::is_same_v<KV, bfloat16>)
      if (kind() == product_kind::tiles)
        return body(panel_kernel<Arch, tile_products<batch, amx_tiles>, Q, KV, Out>{});
#endif
#if defined(__AVX512BF16__)
    if constexpr (std::is_same_v<Q, bfloat16> && std::is_same_v<KV, bfloat16>)
      if (kind() == product_kind::pairs)
        return body(panel_kernel<Arch, pair_products<batch>, Q, KV, Out>{});
#endif
    return body(panel_kernel<Arch, float_products<batch>, Q, KV, Out>{});
  }
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
