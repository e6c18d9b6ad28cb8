// SPDX-License-Identifier: Apache-2.0
// Attention of many queries on the SIMD back end (layer: kernel). A task holds panels of queries of
// all heads that share a key-value head; it packs each block of keys once and goes over its panels
// with it: scores, modifier, online softmax, values. docs/mathematics.md, section 7.
#pragma once

#include "zerotune/kernel/simd/modify_tile.hpp"
#include "zerotune/kernel/simd/pack.hpp"
#include "zerotune/kernel/simd/prefetch.hpp"
#include "zerotune/kernel/simd/row_ops.hpp"
#include "zerotune/kernel/simd/score_tile.hpp"
#include "zerotune/kernel/simd/softmax_tile.hpp"
#include "zerotune/kernel/simd/value_tile.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Scratch memory of a task, carved up in the order of its members.
template <class Batch>
struct panel_scratch {
  using real = typename Batch::value_type;
  using shape = panel_shape<Batch>;

  /// A row of keys and a tile of values are a cache line apart from multiples of 4 KiB, so that
  /// neighbours do not meet in the same set of the first-level cache.
  static constexpr index_t line = static_cast<index_t>(64 / sizeof(real));
  static index_t key_row(index_t head_dim) {
    const index_t row = round_up(head_dim, line);
    return row % (8 * line) == 0 && row >= 8 * line ? row + line : row;
  }
  static index_t value_tile(index_t key_block) { return key_block * shape::group + line; }

  real *scores, *keys, *values, *shrink;
  panel<Batch>* panels;

  /// Bytes of what all panels share, and of one panel.
  static index_t shared_bytes(index_t key_block, index_t head_dim, index_t value_dim) {
    return bytes(key_block * shape::width) + bytes(key_block * key_row(head_dim)) +
           bytes(value_numbers(key_block, value_dim)) + bytes(shape::width);
  }
  static index_t panel_bytes(index_t head_dim, index_t value_dim) {
    return header_bytes + bytes(head_dim * shape::width) +
           bytes(round_up(value_dim, shape::group) * shape::width);
  }

  panel_scratch(std::byte* memory, index_t key_block, index_t head_dim, index_t value_dim,
                index_t num_panels) {
    const auto take = [&](index_t numbers) {
      real* const begin = reinterpret_cast<real*>(memory);
      memory += bytes(numbers);
      return begin;
    };
    scores = take(key_block * shape::width);
    keys = take(key_block * key_row(head_dim));
    values = take(value_numbers(key_block, value_dim));
    shrink = take(shape::width);
    panels = reinterpret_cast<panel<Batch>*>(memory);
    memory += num_panels * header_bytes;
    for (index_t i = 0; i < num_panels; ++i) {
      panels[i].q = take(head_dim * shape::width);
      panels[i].out = take(round_up(value_dim, shape::group) * shape::width);
    }
  }

 private:
  static constexpr index_t header_bytes = round_up(static_cast<index_t>(sizeof(panel<Batch>)), 64);
  static index_t bytes(index_t numbers) {
    return round_up(numbers * static_cast<index_t>(sizeof(real)), 64);
  }
  static index_t value_numbers(index_t key_block, index_t value_dim) {
    return round_up(value_dim, shape::group) / shape::group * value_tile(key_block);
  }
};

/// The work of one task.
template <class Arch, element Q, element KV, element Out, logit_modifier Modifier>
class panel_task {
  using problem = attention_problem<Q, KV, Out>;
  using real = accumulator_t<KV>;
  using batch = impl::batch<real, Arch>;
  using shape = panel_shape<batch>;
  using panel_type = panel<batch>;
  using back_end = backend::simd<Arch>;

 public:
  panel_task(const problem& p, const Modifier& m, const attention_tiling& tiling,
             index_t batch_index, index_t kv_head, std::byte* scratch)
      : p_(p),
        m_(m),
        tiling_(tiling),
        batch_(batch_index),
        kv_head_(kv_head),
        scratch_(scratch, tiling.key_block, p.head_dim(), p.value_dim(), tiling.panels_per_task) {}

  /// Panels [first, last), counted over the heads of the group first and then over the queries.
  void run(index_t first, index_t last) noexcept {
    count_ = 0;
    for (index_t i = first; i < last; ++i)
      if (place_panel(scratch_.panels[count_], i))
        keys_ = hull(keys_, scratch_.panels[count_++].all);
    // Blocks begin at multiples of their size, so that a row's result does not depend on its
    // neighbours.
    const index_t step = tiling_.key_block;
    for (index_t origin = round_down(keys_.begin, step); origin < keys_.end; origin += step) {
      block_ = {origin,
                {},
                scratch_.keys,
                scratch_.key_row(p_.head_dim()),
                scratch_.values,
                scratch_.value_tile(step),
                true};
      for (index_t i = 0; i < count_; ++i) {
        panel_type& p = scratch_.panels[i];
        const range part = intersect(p.all, {origin, origin + step});
        if (part.empty()) continue;
        if (!p.begun) begin_panel(p);
        plan_prefetch(i, part);
        attend(p, part);
        if (part.end == p.all.end) end_panel(p);
      }
    }
    for (index_t i = 0; i < count_; ++i)
      if (scratch_.panels[i].all.empty()) {
        begin_panel(scratch_.panels[i]);
        end_panel(scratch_.panels[i]);
      }
  }

 private:
  /// Which rows a panel stands for. False if they were attended to at once: few of them, or keys
  /// between theirs are hidden.
  bool place_panel(panel_type& p, index_t index) noexcept {
    const index_t q_len = p_.g.shape.q_len;
    // The odd panel comes first: where attention is causal it has the fewest keys.
    const index_t odd = q_len % shape::width, number = index / p_.group_size();
    p.begun = false;
    p.head = kv_head_ * p_.group_size() + index % p_.group_size();
    p.first = odd == 0      ? number * shape::width
              : number == 0 ? 0
                            : odd + (number - 1) * shape::width;
    p.queries = number == 0 && odd != 0 ? odd : shape::width;
    if (p.queries > lanes<batch> / 2 && find_visible(p, p_.g, m_, batch_)) return true;
    attention_head_rows<back_end>(p_, m_, batch_, p.head, {p.first, p.first + p.queries});
    return false;
  }

  void begin_panel(panel_type& p) noexcept {
    pack_queries(p, p_.q.pointer(batch_, p.head, p.first, 0), p_.q.stride(2), p_.q.stride(3),
                 p_.head_dim(), p_.softmax_scale * log2_of_e<real>);
    for (index_t i = 0; i < shape::width; ++i) p.maximum[i] = no_maximum<real>(), p.sum[i] = 0;
    const index_t numbers = round_up(p_.value_dim(), shape::group) * shape::width;
    for (index_t i = 0; i < numbers; ++i) p.out[i] = 0;
    p.begun = true;
  }

  /// What is fetched under the products of panel i and the keys `part`: the next panel's queries,
  /// this panel's share of the next block, the rows that it is about to write.
  void plan_prefetch(index_t i, range part) noexcept {
    ahead_.clear();
    const panel_type& p = scratch_.panels[i];
    const range next = intersect(
        {block_.origin + tiling_.key_block, block_.origin + 2 * tiling_.key_block}, keys_);
    const index_t begin = next.begin + next.size() * i / count_;
    const index_t rows = next.begin + next.size() * (i + 1) / count_ - begin;
    if (rows > 0) {
      ahead_.add(p_.k.pointer(batch_, kv_head_, begin, 0), p_.k.stride(2), p_.k.stride(3), rows,
                 p_.head_dim());
      ahead_.add(p_.v.pointer(batch_, kv_head_, begin, 0), p_.v.stride(2), p_.v.stride(3), rows,
                 p_.value_dim());
    }
    if (part.end == p.all.end)
      ahead_.add(p_.out.pointer(batch_, p.head, p.first, 0), p_.out.stride(2), p_.out.stride(3),
                 p.queries, p_.value_dim());
    if (i + 1 < count_ && !scratch_.panels[i + 1].begun) {
      const panel_type& q = scratch_.panels[i + 1];
      ahead_.add(p_.q.pointer(batch_, q.head, q.first, 0), p_.q.stride(2), p_.q.stride(3),
                 q.queries, p_.head_dim());
    }
  }

  /// Keys and values of the positions `keys` into the block; those that are there already stay.
  void pack(range keys) noexcept {
    range& packed = block_.packed;
    if (packed.contains(keys) && !packed.empty()) return;
    const range former = packed;
    range fresh = keys;
    if (packed.empty() || keys.begin > packed.end || keys.end < packed.begin) {
      packed = keys;  // nothing between the two may be read
      block_.finite = true;
    } else {
      packed = hull(packed, keys);
      fresh = {keys.begin < former.begin ? keys.begin : former.end, packed.end};
    }
    const index_t origin = block_.origin, first = fresh.begin - origin, last = fresh.end - origin;
    pack_keys<batch>(p_.k.pointer(batch_, kv_head_, fresh.begin, 0), p_.k.stride(2), p_.k.stride(3),
                     fresh.size(), p_.head_dim(), scratch_.keys + first * block_.key_row,
                     block_.key_row);
    block_.finite &= pack_values<batch>(
        p_.v.pointer(batch_, kv_head_, fresh.begin, 0), p_.v.stride(2), p_.v.stride(3),
        fresh.size(), p_.value_dim(), scratch_.values + first * shape::group, block_.value_tile);
    clear_keys(round_down(packed.begin - origin, shape::group), packed.begin - origin);
    clear_keys(last, round_up(last, shape::group));
  }
  void clear_keys(index_t first, index_t last) noexcept {
    for (index_t i = first * block_.key_row; i < last * block_.key_row; ++i) scratch_.keys[i] = 0;
  }

  /// One block of keys for a panel, some row of which sees each of the keys `part`.
  void attend(panel_type& p, range part) noexcept {
    const head_of head{batch_, static_cast<int>(p.head)};
    const tile_effect effect = m_.effect(head, range{p.q_pos, p.q_pos + p.queries}, part);
    if (effect == tile_effect::masked) return;
    pack(part);

    key_groups groups[shape::vectors];
    value_range<batch> values{part.begin - block_.origin, {}};
    find_groups(p, part, groups, values);
    score(p, groups);
    if (effect == tile_effect::apply)
      score_modifier<batch, back_end, Modifier>(p, m_, batch_, part, block_.origin, scratch_.scores)
          .run();
    for (index_t n = 0; n < p.used; ++n) {
      mask_scores<batch>(p, n, block_.origin, groups[n], scratch_.scores);
      exponentiate<batch>(p, n, groups[n], scratch_.scores, scratch_.shrink);
      clear_weights<batch>(n, values.begin, groups[n].begin, scratch_.scores);
      clear_weights<batch>(n, groups[n].end, values.ends[n], scratch_.scores);
    }
    multiply_values(p, block_, scratch_.scores, values, scratch_.shrink, p_.value_dim());
  }

  /// Which groups of keys each vector has to do with, and up to where its weights are used.
  void find_groups(const panel_type& p, range part, key_groups (&groups)[shape::vectors],
                   value_range<batch>& values) const noexcept {
    index_t end = values.begin;
    for (index_t n = 0; n < p.used; ++n) {
      const range seen = intersect(p.vector_all[n], part);
      if (!seen.empty())
        groups[n] = {round_down(seen.begin - block_.origin, shape::group),
                     round_up(seen.end - block_.origin, shape::group)};
      const index_t last = part.end - block_.origin;
      end = groups[n].end > end ? groups[n].end < last ? groups[n].end : last : end;
      values.ends[n] = end;
    }
  }

  void score(const panel_type& p, const key_groups (&groups)[shape::vectors]) noexcept {
    index_t begin = groups[0].begin, end = groups[0].end;
    for (index_t n = 1; n < p.used; ++n) {
      if (groups[n].begin == groups[n].end) continue;
      begin = begin == end || groups[n].begin < begin ? groups[n].begin : begin;
      end = groups[n].end > end ? groups[n].end : end;
    }
    if (begin == end) return;
    const index_t fetched = ahead_.lines() / ((end - begin) / shape::group) + 1;
    for (index_t j = begin; j < end; j += shape::group) {
      index_t first = p.used, last = 0;
      for (index_t n = 0; n < p.used; ++n)
        if (groups[n].begin <= j && j < groups[n].end) {
          first = n < first ? n : first;
          last = n + 1;
        }
      ahead_.fetch(fetched);
      if (first < last)
        score_group(p, first, last, scratch_.keys + j * block_.key_row, block_.key_row,
                    p_.head_dim(), scratch_.scores + j * shape::width);
    }
  }

  void end_panel(panel_type& p) noexcept {
    alignas(64) real factor[shape::width] = {};
    for (index_t i = 0; i < p.queries; ++i) {
      // A sum holds at least one weight of 1, or NaN, unless the row saw nothing.
      const bool none = p.sum[i] == real(0);
      factor[i] = none ? real(0) : real(1) / p.sum[i];
      if (p_.lse.data())
        p_.lse(batch_, p.head, p.first + i) =
            none ? minus_infinity(real{}) : p.maximum[i] * log_of_2<real> + log_of(p.sum[i]);
    }
    unpack_output(p, factor, p_.out.pointer(batch_, p.head, p.first, 0), p_.out.stride(2),
                  p_.out.stride(3), p_.value_dim());
    for (index_t i = 0; i < p.queries; ++i)
      // gamma = 0 excludes all that the row sees: it is computed as if gamma were 1.
      if (p.sum[i] > real(0) && p.maximum[i] <= zero_threshold<real>)
        attention_head_rows<back_end>(p_, m_, batch_, p.head, {p.first + i, p.first + i + 1});
  }

  const problem& p_;
  const Modifier& m_;
  const attention_tiling& tiling_;
  const index_t batch_, kv_head_;
  const panel_scratch<batch> scratch_;
  key_block<real> block_{};
  index_t count_ = 0;  // panels
  range keys_{};       // that they see
  prefetch_queue ahead_;
};

/// Attention by panels; by rows where most lanes would be idle.
template <class Arch, element Q, element KV, element Out>
struct attention_kernel<backend::simd<Arch>, Q, KV, Out> {
  using problem = attention_problem<Q, KV, Out>;
  using batch = impl::batch<accumulator_t<KV>, Arch>;
  using shape = panel_shape<batch>;
  using scratch = panel_scratch<batch>;

  /// Wider heads go by rows; no model has them, and panels would outgrow the caches.
  static constexpr index_t widest_head = 1024;
  static bool by_rows(const problem& p) {
    return p.g.shape.q_len <= lanes<batch> / 2 || p.head_dim() > widest_head ||
           p.value_dim() > widest_head;
  }

  static attention_tiling tiling(const problem& p, const attention_plan& plan,
                                 index_t wanted_tasks) noexcept {
    if (by_rows(p)) return row_kernel<backend::simd<Arch>, Q, KV, Out>::tiling(p, plan, 1);
    constexpr auto size = static_cast<index_t>(sizeof(accumulator_t<KV>));
    attention_tiling t;
    const index_t fitting = plan.score_bytes / (shape::width * size);
    t.key_block = round_down(fitting < 32 ? 32 : fitting > 1024 ? 1024 : fitting, 32);
    const index_t panels = panels_of_group(p), groups = p.g.shape.batch * p.num_kv_heads();
    const index_t shared = scratch::shared_bytes(t.key_block, p.head_dim(), p.value_dim());
    const index_t each = scratch::panel_bytes(p.head_dim(), p.value_dim());
    const index_t left = plan.task_bytes - shared;
    const index_t most = left > each ? left / each : 1;
    if (groups == 0) return t;
    const index_t tasks_per_group = (wanted_tasks + groups - 1) / groups;
    const index_t fair = (panels + tasks_per_group - 1) / tasks_per_group;
    t.panels_per_task = fair < most ? fair : most;
    t.tasks = groups * tasks_of_group(p, t);
    t.scratch_bytes = shared + t.panels_per_task * each;
    return t;
  }

  template <logit_modifier Modifier>
  static void run(const problem& p, const Modifier& m, const attention_tiling& t, index_t task,
                  std::byte* memory) noexcept {
    if (t.scratch_bytes == 0)
      return row_kernel<backend::simd<Arch>, Q, KV, Out>::run(p, m, t, task, memory);
    const index_t group = task / tasks_of_group(p, t);
    // The last panels have the most keys where attention is causal: they begin first.
    const index_t number = tasks_of_group(p, t) - 1 - task % tasks_of_group(p, t);
    const range all{0, panels_of_group(p)};
    const range panels =
        intersect({number * t.panels_per_task, (number + 1) * t.panels_per_task}, all);
    panel_task<Arch, Q, KV, Out, Modifier>(p, m, t, group / p.num_kv_heads(),
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

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
