// SPDX-License-Identifier: Apache-2.0
// One task of attention (layer: kernel): panels of queries of all heads that share a key-value
// head. Each block of keys is packed once, and every panel goes over it: scores, modifier, online
// softmax, values. docs/mathematics.md, section 7.
#pragma once

#include "zerotune/kernel/simd/modify_tile.hpp"
#include "zerotune/kernel/simd/pack.hpp"
#include "zerotune/kernel/simd/prefetch.hpp"
#include "zerotune/kernel/simd/row_ops.hpp"
#include "zerotune/kernel/simd/softmax_tile.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Scratch memory of a task, carved up.
template <class Products>
struct panel_scratch {
  using shape = typename Products::shape;
  using real = typename Products::real;
  using element = typename Products::element;
  using weight = typename Products::weight;

  real *scores, *shrink;
  weight* weights;
  element *keys, *values;
  panel<shape>* panels;

  /// Bytes of what all panels share, and of one panel.
  static index_t shared_bytes(index_t key_block, index_t head_dim, index_t value_dim) {
    return bytes<real>(key_block * shape::width) + bytes<real>(shape::width) +
           bytes<weight>(Products::weight_size(key_block)) +
           bytes<element>(Products::key_size(key_block, head_dim)) +
           bytes<element>(Products::value_size(key_block, value_dim));
  }
  static index_t panel_bytes(index_t head_dim, index_t value_dim) {
    return bytes<panel<shape>>(1) + bytes<real>(Products::query_size(head_dim)) +
           bytes<real>(Products::output_size(value_dim));
  }

  panel_scratch(std::byte* memory, index_t key_block, index_t head_dim, index_t value_dim,
                index_t num_panels) {
    take(memory, key_block * shape::width, scores);
    take(memory, shape::width, shrink);
    take(memory, Products::weight_size(key_block), weights);
    take(memory, Products::key_size(key_block, head_dim), keys);
    take(memory, Products::value_size(key_block, value_dim), values);
    panels = reinterpret_cast<panel<shape>*>(memory);
    memory += num_panels * bytes<panel<shape>>(1);
    for (index_t i = 0; i < num_panels; ++i) {
      take(memory, Products::query_size(head_dim), panels[i].q);
      take(memory, Products::output_size(value_dim), panels[i].out);
    }
  }

 private:
  template <class T>
  static constexpr index_t bytes(index_t count) {
    return round_up(count * static_cast<index_t>(sizeof(T)), 64);
  }
  template <class T>
  static void take(std::byte*& memory, index_t count, T*& begin) {
    begin = reinterpret_cast<T*>(memory);
    memory += bytes<T>(count);
  }
};

template <class Arch, class Products, element Q, element KV, element Out, logit_modifier Modifier>
class panel_task {
  using problem = attention_problem<Q, KV, Out>;
  using shape = typename Products::shape;
  using real = typename shape::real;
  using panel_type = panel<shape>;
  using back_end = backend::simd<Arch>;
  static constexpr index_t lanes = impl::lanes<typename shape::batch>;

 public:
  panel_task(const problem& p, const Modifier& m, const attention_tiling& tiling, index_t batch,
             index_t kv_head, std::byte* scratch)
      : p_(p),
        m_(m),
        tiling_(tiling),
        batch_(batch),
        kv_head_(kv_head),
        scratch_(scratch, tiling.key_block, p.head_dim(), p.value_dim(), tiling.panels_per_task) {}

  /// Panels [first, last), counted over the heads of the group first and then over the queries.
  void run(index_t first, index_t last) noexcept {
    for (index_t i = first; i < last; ++i)
      if (place_panel(scratch_.panels[count_], i))
        keys_ = hull(keys_, scratch_.panels[count_++].all);
    // Blocks begin at multiples of their size, so that a row's result does not depend on its
    // neighbours.
    const index_t step = tiling_.key_block;
    for (index_t origin = round_down(keys_.begin, step); origin < keys_.end; origin += step) {
      block_ = {origin, step, {}, scratch_.keys, scratch_.values, true};
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
    if (p.queries > lanes / 2 && find_visible(p, p_.g, m_, batch_)) return true;
    attention_head_rows<back_end>(p_, m_, batch_, p.head, {p.first, p.first + p.queries});
    return false;
  }

  void begin_panel(panel_type& p) noexcept {
    Products::pack_queries(p,
                           row_view<Q>{p_.q.pointer(batch_, p.head, p.first, 0), p_.q.stride(2),
                                       p_.q.stride(3), p_.head_dim(), range{0, p.queries}},
                           p_.softmax_scale * log2_of_e<real>);
    for (index_t i = 0; i < shape::width; ++i) {
      p.maximum[i] = no_maximum<real>();
      p.sum[i] = 0;
      p.sink[i] = mask_bias<real>();
    }
    const index_t numbers = Products::output_size(p_.value_dim());
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
    const range former = block_.packed;
    if (!former.empty() && former.contains(keys)) return;
    range fresh = keys;
    if (former.empty() || keys.begin > former.end || keys.end < former.begin) {
      block_.packed = keys;  // nothing between the two may be read
      block_.finite = true;
    } else {
      block_.packed = hull(former, keys);
      fresh = {keys.begin < former.begin ? keys.begin : former.end, block_.packed.end};
    }
    const index_t first = block_.packed.begin;
    const range valid{first - block_.origin, block_.packed.end - block_.origin};
    const range rows{round_down(fresh.begin - block_.origin, shape::group),
                     round_up(fresh.end - block_.origin, shape::group)};
    Products::pack_keys(block_,
                        row_view<KV>{p_.k.pointer(batch_, kv_head_, first, 0), p_.k.stride(2),
                                     p_.k.stride(3), p_.head_dim(), valid},
                        rows);
    block_.finite &=
        Products::pack_values(block_,
                              row_view<KV>{p_.v.pointer(batch_, kv_head_, first, 0), p_.v.stride(2),
                                           p_.v.stride(3), p_.value_dim(), valid},
                              rows);
  }

  /// One block of keys for a panel, some row of which sees each of the keys `part`.
  void attend(panel_type& p, range part) noexcept {
    const head_of head{batch_, static_cast<int>(p.head)};
    const tile_effect effect = m_.effect(head, range{p.q_pos, p.q_pos + p.queries}, part);
    if (effect == tile_effect::masked) return;
    pack(part);

    key_groups groups[shape::vectors];
    value_range<shape> values{part.begin - block_.origin, {}};
    find_groups(p, part, groups, values);
    const key_groups all = score(p, groups);
    real factor = Products::score_factor(p_.softmax_scale * log2_of_e<real>);
    // What is beyond would overflow the bias that stands for gamma = 0, or turn maxima around.
    if (!(factor >= real(1e-4) && factor <= real(1e4)))
      scale_scores<shape>(all, scratch_.scores, &factor);
    if (effect == tile_effect::apply)
      score_modifier<shape, back_end, Modifier>(p, m_, batch_, part, block_.origin, scratch_.scores,
                                                factor * log_of_2<real>)
          .run();
    const bool keeps_sink = p_.sink.mass.data() && part.contains(p_.sink.position(batch_));
    for (index_t n = 0; n < p.used; ++n) {
      mask_scores<shape>(p, n, block_.origin, groups[n], scratch_.scores);
      if (keeps_sink) keep_sink(p, n, groups[n], factor);
      Products::weigh(p, n, groups[n], values, factor, effect == tile_effect::apply,
                      scratch_.scores, scratch_.weights, scratch_.shrink);
    }
    Products::add_values(session_, p, block_, values, scratch_.scores, scratch_.weights,
                         scratch_.shrink, p_.value_dim());
  }

  /// The sink's scores of vector n, whose weights are to be told when the sums are known.
  void keep_sink(panel_type& p, index_t n, key_groups part, real factor) noexcept {
    const index_t key = p_.sink.position(batch_) - block_.origin;
    if (key < part.begin || key >= part.end) return;
    const real* const scores = scratch_.scores + key * shape::width;
    for (index_t i = n * lanes; i < (n + 1) * lanes; ++i)
      p.sink[i] = is_masked(scores[i]) ? mask_bias<real>() : scores[i] * factor;
  }

  /// Which groups of keys each vector has to do with, and up to where its weights are used.
  void find_groups(const panel_type& p, range part, key_groups (&groups)[shape::vectors],
                   value_range<shape>& values) const noexcept {
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

  /// Scores of the groups; returns the hull of them all.
  key_groups score(const panel_type& p, const key_groups (&groups)[shape::vectors]) noexcept {
    range all{};
    for (index_t n = 0; n < p.used; ++n) all = hull(all, {groups[n].begin, groups[n].end});
    const index_t fetched = ahead_.lines() / (all.size() / shape::group + 1) + 1;
    for (index_t j = all.begin; j < all.end; j += shape::group) {
      index_t first = p.used, last = 0;
      for (index_t n = 0; n < p.used; ++n)
        if (groups[n].begin <= j && j < groups[n].end) {
          first = n < first ? n : first;
          last = n + 1;
        }
      ahead_.fetch(fetched);
      if (first < last)
        Products::score(session_, p, block_, j, first, last, p_.head_dim(), scratch_.scores);
    }
    return {all.begin, all.end};
  }

  void end_panel(panel_type& p) noexcept {
    alignas(64) real factor[shape::width] = {};
    bool excluded[shape::width];
    for (index_t i = 0; i < p.queries; ++i) {
      const bool raised = p.maximum[i] > no_maximum<real>();
      excluded[i] = raised && p.maximum[i] <= zero_threshold<real>;
      // Where every score is NaN, no maximum is raised and the sum is NaN.
      const bool none = !raised && p.sum[i] == real(0);
      factor[i] = none ? real(0) : real(1) / p.sum[i];
      if (p_.lse.data())
        p_.lse(batch_, p.head, p.first + i) =
            none ? minus_infinity(real{}) : p.maximum[i] * log_of_2<real> + log_of(p.sum[i]);
      if (p_.sink.mass.data())
        p_.sink.mass(batch_, p.head, p.first + i) = none ? real(0) : sink_weight(p, i);
    }
    unpack_output(p, factor, p_.out.pointer(batch_, p.head, p.first, 0), p_.out.stride(2),
                  p_.out.stride(3), p_.value_dim());
    for (index_t i = 0; i < p.queries; ++i)
      // gamma = 0 excludes all that the row sees: it is computed as if gamma were 1.
      if (excluded[i])
        attention_head_rows<back_end>(p_, m_, batch_, p.head, {p.first + i, p.first + i + 1});
  }

  static real sink_weight(const panel_type& p, index_t i) noexcept {
    if (is_masked(p.sink[i])) return real(0) / p.sum[i];
    return weight_of((p.sink[i] - p.maximum[i]) * log_of_2<real>, real(0), p.sum[i]);
  }

  const problem& p_;
  const Modifier& m_;
  const attention_tiling& tiling_;
  const index_t batch_, kv_head_;
  const panel_scratch<Products> scratch_;
  typename Products::session session_{};
  key_block<typename Products::element> block_{};
  index_t count_ = 0;  // panels
  range keys_{};       // that they see
  prefetch_queue ahead_;
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
