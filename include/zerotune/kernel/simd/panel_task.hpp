// SPDX-License-Identifier: Apache-2.0
// One task of attention (layer: kernel): panels of queries of all heads that share a key-value
// head. A section of keys, some blocks of them, is packed once, and every panel goes over its
// blocks: scores, modifier, online softmax, values. docs/mathematics.md, section 7.
#pragma once

#include "zerotune/kernel/simd/modify_tile.hpp"
#include "zerotune/kernel/simd/pack.hpp"
#include "zerotune/kernel/simd/panel_groups.hpp"
#include "zerotune/kernel/simd/panel_scratch.hpp"
#include "zerotune/kernel/simd/prefetch.hpp"
#include "zerotune/kernel/simd/row_ops.hpp"
#include "zerotune/kernel/simd/score_run.hpp"
#include "zerotune/kernel/simd/value_tile.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

template <class Arch, class Products, element Q, element KV, element Out, logit_modifier Modifier>
class panel_task {
  using problem = attention_problem<Q, KV, Out>;
  using shape = typename Products::shape;
  using real = typename shape::real;
  using panel_type = panel<shape>;
  using block_type = key_block<typename Products::element>;
  using sums_type = block_sums<shape>;
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
        scratch_(scratch, tiling, p.head_dim(), p.value_dim()) {}

  /// Panels [first, last), counted over the heads of the group first and then over the queries.
  void run(index_t first, index_t last) noexcept {
    for (index_t i = first; i < last; ++i)
      if (place_panel(scratch_.panels[count_], i))
        keys_ = hull(keys_, scratch_.panels[count_++].all);
    // Blocks begin at multiples of their size, so that a row's result does not depend on its
    // neighbours.
    const index_t section = tiling_.key_block * tiling_.blocks_per_section;
    // A panel that is done within a section leaves its place in the caches to the next one.
    if (round_down(keys_.begin, tiling_.key_block) + section >= keys_.end)
      for (index_t i = 1; i < count_; ++i) {
        scratch_.panels[i].q = scratch_.panels[0].q;
        scratch_.panels[i].out = scratch_.panels[0].out;
      }
    for (index_t origin = round_down(keys_.begin, tiling_.key_block); origin < keys_.end;
         origin += section)
      go_over_section({origin, origin + section});
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

  void go_over_section(range section) noexcept {
    section_ = section;
    for (index_t n = 0; n < tiling_.blocks_per_section; ++n) {
      block_type& b = scratch_.blocks[n];
      b.origin = section.begin + n * tiling_.key_block;
      b.size = tiling_.key_block;
      b.packed = {};
      b.finite = true;
    }
    for (index_t i = 0; i < count_; ++i) {
      panel_type& p = scratch_.panels[i];
      if (intersect(p.all, section).empty()) continue;
      if (!p.begun) begin_panel(p);
      plan_prefetch(i);
      for (index_t n = 0; n < tiling_.blocks_per_section; ++n) {
        block_type& b = scratch_.blocks[n];
        const range part = intersect(p.all, {b.origin, b.origin + b.size});
        if (!part.empty()) attend(p, b, part);
      }
      if (p.all.end <= section.end) end_panel(p);
    }
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
    p.former = former_sums::none;
    if constexpr (!Products::sets_output) clear_output(p);
    p.begun = true;
  }

  void clear_output(panel_type& p) noexcept {
    const index_t numbers = Products::output_size(p_.value_dim());
    for (index_t i = 0; i < numbers; ++i) p.out[i] = 0;
    p.former = former_sums::kept;
  }

  /// What is fetched under the products of panel i: its share of the next section's first block,
  /// the keys that the next panel is the first to see, the rows that this one is about to write,
  /// the next panel's queries.
  void plan_prefetch(index_t i) noexcept {
    ahead_.clear();
    const panel_type& p = scratch_.panels[i];
    const bool last = i + 1 == count_;
    const range next = intersect({section_.end, section_.end + tiling_.key_block}, keys_);
    fetch_keys(
        {next.begin + next.size() * i / count_, next.begin + next.size() * (i + 1) / count_});
    if (!last) fetch_keys(intersect(scratch_.panels[i + 1].all, {p.all.end, section_.end}));
    if (p.all.end <= section_.end)
      ahead_.add(p_.out.pointer(batch_, p.head, p.first, 0), p_.out.stride(2), p_.out.stride(3),
                 p.queries, p_.value_dim());
    if (!last && !scratch_.panels[i + 1].begun) {
      const panel_type& q = scratch_.panels[i + 1];
      ahead_.add(p_.q.pointer(batch_, q.head, q.first, 0), p_.q.stride(2), p_.q.stride(3),
                 q.queries, p_.head_dim());
    }
    fetched_ = ahead_.lines() / (intersect(p.all, section_).size() / shape::group + 1) + 1;
  }

  void fetch_keys(range keys) noexcept {
    if (keys.empty()) return;
    ahead_.add(p_.k.pointer(batch_, kv_head_, keys.begin, 0), p_.k.stride(2), p_.k.stride(3),
               keys.size(), p_.head_dim());
    ahead_.add(p_.v.pointer(batch_, kv_head_, keys.begin, 0), p_.v.stride(2), p_.v.stride(3),
               keys.size(), p_.value_dim());
  }

  /// Keys and values of the positions `keys` into the block; those that are there already stay.
  void pack(block_type& b, range keys) noexcept {
    const range former = b.packed;
    if (!former.empty() && former.contains(keys)) return;
    range fresh = keys;
    if (former.empty() || keys.begin > former.end || keys.end < former.begin) {
      b.packed = keys;  // nothing between the two may be read
      b.finite = true;
    } else {
      b.packed = hull(former, keys);
      fresh = {keys.begin < former.begin ? keys.begin : former.end, b.packed.end};
    }
    const index_t first = b.packed.begin;
    const range valid{first - b.origin, b.packed.end - b.origin};
    const range rows{round_down(fresh.begin - b.origin, shape::group),
                     round_up(fresh.end - b.origin, shape::group)};
    Products::pack_keys(b,
                        row_view<KV>{p_.k.pointer(batch_, kv_head_, first, 0), p_.k.stride(2),
                                     p_.k.stride(3), p_.head_dim(), valid},
                        rows);
    b.finite &=
        Products::pack_values(b,
                              row_view<KV>{p_.v.pointer(batch_, kv_head_, first, 0), p_.v.stride(2),
                                           p_.v.stride(3), p_.value_dim(), valid},
                              rows);
  }

  /// One block of keys for a panel, some row of which sees each of the keys `part`.
  void attend(panel_type& p, block_type& b, range part) noexcept {
    const tile_effect effect = effect_on(p, part);
    if (effect == tile_effect::masked) return;
    pack(b, part);

    key_groups groups[shape::vectors];
    value_range<shape> values{part.begin - b.origin, {}};
    find_groups(p, b.origin, part, groups, values);
    real factor = Products::score_factor(p_.softmax_scale * log2_of_e<real>);
    former_sums former = former_sums::shrunk;
    if constexpr (Products::takes_turns) {
      former = weigh_late(p, b, part, groups, effect, factor);
      for (index_t n = 0; n < p.used; ++n) {
        auto* const weights = Products::weights_in(scratch_.scores, scratch_.weights);
        Products::clear(n, values.begin, groups[n].begin, weights);
        Products::clear(n, groups[n].end, values.ends[n], weights);
      }
    } else {
      make_scores(p, b, part, groups, effect, factor);
      for (index_t n = 0; n < p.used; ++n)
        Products::weigh(p, n, groups[n], values, factor, effect == tile_effect::apply,
                        scratch_.scores, scratch_.weights, scratch_.shrink);
    }
    if (p.former == former_sums::none) former = former_sums::none;
    Products::add_values(session_, p, b, values, scratch_.scores, scratch_.weights, former,
                         scratch_.shrink, p_.value_dim());
    p.former = former_sums::kept;
  }

  tile_effect effect_on(const panel_type& p, range keys) const noexcept {
    return m_.effect(head_of{batch_, static_cast<int>(p.head)}, range{p.q_pos, p.q_pos + p.queries},
                     keys);
  }

  /// Scores of the groups within a part of a block, modified and masked. The factor that they are
  /// still to be multiplied by becomes 1 where it is beyond what the rest can do with.
  void make_scores(panel_type& p, const block_type& b, range part,
                   const key_groups (&groups)[shape::vectors], tile_effect effect,
                   real& factor) noexcept {
    const key_groups all = score(p, b, groups);
    if (all.begin == all.end) return;
    // What is beyond would overflow the bias that stands for gamma = 0, or turn maxima around.
    if (!(factor >= real(1e-4) && factor <= real(1e4)))
      scale_scores<shape>(all, scratch_.scores, &factor);
    if (effect == tile_effect::apply)
      score_modifier<shape, back_end, Modifier>(
          p, m_, batch_, intersect(part, {b.origin + all.begin, b.origin + all.end}), b.origin,
          scratch_.scores, factor * log_of_2<real>)
          .run();
    const bool keeps_sink = p_.sink.mass.data() && part.contains(p_.sink.position(batch_));
    for (index_t n = 0; n < p.used; ++n) {
      mask_scores<shape>(p, n, b.origin, groups[n], scratch_.scores);
      if (keeps_sink) keep_sink(p, b, n, groups[n], factor);
    }
  }

  /// Weights of a block, with maxima that are raised late. Most of it is a run, if it can be.
  former_sums weigh_late(panel_type& p, const block_type& b, range part,
                         const key_groups (&groups)[shape::vectors], tile_effect effect,
                         real factor) noexcept {
    using weights_type = typename Products::weights_of_scores;
    auto* const weights = Products::weights_in(scratch_.scores, scratch_.weights);
    constexpr index_t row = shape::width;
    const key_groups all = hull_of(p, groups), run = find_run(p, b, part, all, effect, factor);
    sums_type sums;
    begin_sums(sums, p, factor);
    bool done = false;
    if (run.begin < run.end) {
      key_groups some[shape::vectors];
      clip(p, groups, {all.begin, run.begin}, some);
      make_scores(p, b, part, some, effect, factor);
      for (index_t n = 0; n < p.used; ++n) {
        begin_maxima(sums, n, some[n], scratch_.scores);
        weigh_stored<weights_type>(sums, n, some[n], scratch_.scores, weights, row);
      }
      if (all_begun(sums, p)) {
        constexpr index_t pieces = shape::group / 2 * shape::vectors;
        Products::score_run(p, b, run, sums, p_.head_dim(), weights, ahead_,
                            (fetched_ + pieces - 1) / pieces);
        clip(p, groups, {run.end, all.end}, some);
        make_scores(p, b, part, some, effect, factor);
        for (index_t n = 0; n < p.used; ++n)
          weigh_stored<weights_type>(sums, n, some[n], scratch_.scores, weights, row);
        done = !must_raise(sums);
      }
      if (!done) begin_sums(sums, p, factor);
    }
    if (!done) {
      make_scores(p, b, part, groups, effect, factor);
      sums.factor = factor;
      for (index_t n = 0; n < p.used; ++n) {
        begin_maxima(sums, n, groups[n], scratch_.scores);
        raise_maxima<weights_type>(sums, n, groups[n], scratch_.scores);
        weigh_stored<weights_type>(sums, n, groups[n], scratch_.scores, weights, row);
      }
    }
    return add_block(sums, p, scratch_.shrink) ? former_sums::shrunk : former_sums::kept;
  }

  /// The groups of keys that every row sees, that nothing modifies and whose scores nobody asks
  /// for. Where the modifier acts on the first group alone, as one of the initial token does, the
  /// others are those of the identity.
  key_groups find_run(const panel_type& p, const block_type& b, range part, key_groups all,
                      tile_effect effect, real factor) const noexcept {
    if (p.used != shape::vectors || !(factor >= real(1e-4) && factor <= real(1e4))) return {};
    const range common = intersect(p.common, part);
    index_t begin = round_up(common.begin - b.origin, shape::group);
    const index_t end = round_down(common.end - b.origin, shape::group);
    for (index_t i = 0; i < shape::width; ++i)
      if (!(p.maximum[i] > no_maximum<real>()) && begin < all.begin + shape::group)
        begin = all.begin + shape::group;
    if (p_.sink.mass.data() && part.contains(p_.sink.position(batch_))) {
      const index_t beyond = round_up(p_.sink.position(batch_) + 1 - b.origin, shape::group);
      begin = beyond > begin ? beyond : begin;
    }
    const auto acts = [&] {
      return begin < end && effect_on(p, {b.origin + begin, b.origin + end}) != tile_effect::none;
    };
    if (effect == tile_effect::apply && acts()) {
      begin = begin < all.begin + shape::group ? all.begin + shape::group : end;
      if (acts()) return {};
    }
    return {begin, end};
  }

  /// The sink's scores of vector n, whose weights are to be told when the sums are known.
  void keep_sink(panel_type& p, const block_type& b, index_t n, key_groups part,
                 real factor) noexcept {
    const index_t key = p_.sink.position(batch_) - b.origin;
    if (key < part.begin || key >= part.end) return;
    const real* const scores = scratch_.scores + key * shape::width;
    for (index_t i = n * lanes; i < (n + 1) * lanes; ++i)
      p.sink[i] = is_masked(scores[i]) ? mask_bias<real>() : scores[i] * factor;
  }

  /// Scores of the groups; returns the hull of them all.
  key_groups score(const panel_type& p, const block_type& b,
                   const key_groups (&groups)[shape::vectors]) noexcept {
    const key_groups all = hull_of(p, groups);
    for (index_t j = all.begin; j < all.end; j += shape::group) {
      index_t first = p.used, last = 0;
      for (index_t n = 0; n < p.used; ++n)
        if (groups[n].begin <= j && j < groups[n].end) {
          first = n < first ? n : first;
          last = n + 1;
        }
      ahead_.fetch(fetched_);
      if (first < last)
        Products::score(session_, p, b, j, first, last, p_.head_dim(), scratch_.scores);
    }
    return all;
  }

  void end_panel(panel_type& p) noexcept {
    if (p.former == former_sums::none) clear_output(p);
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
  index_t count_ = 0;         // panels
  range keys_{}, section_{};  // keys that they see, and those that are packed together
  prefetch_queue ahead_;
  index_t fetched_ = 0;  // lines of it in front of each group of keys
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
