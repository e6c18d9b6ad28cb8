// SPDX-License-Identifier: Apache-2.0
// Attention of several queries of a head at once on the SIMD back end (layer: kernel): the online
// softmax of kernel/attention_row.hpp with a query in every lane. A lane never sees another one, so
// a row's result depends on the row and on where its tile begins and ends.
#pragma once

#include "zerotune/kernel/simd/row_ops.hpp"
#include "zerotune/kernel/simd/tile.hpp"

#if defined(__GNUC__) && !defined(__clang__)  // as in xsimd_compat.hpp
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

template <class Arch, class Acc>
struct attention_tile<backend::simd<Arch>, Acc> {
  using batch = impl::batch<Acc, Arch>;
  static constexpr index_t lanes = impl::lanes<batch>;

  /// Rows of a tile, and what they see: `all` by some row, `common` by every row.
  struct tile_geometry {
    index_t first_q_pos, queries;
    range seen[4 * lanes];  // of each row
    range all, common;
  };

  template <element Q, element KV, element Out, logit_modifier Modifier>
  static bool run(attention_row_args<Q, KV, Out> a, const row_steps& steps, const geometry& g,
                  const Modifier& m, index_t batch_index, index_t head, range queries) noexcept {
    // With few queries most lanes would be idle: rows along head_dim are faster then.
    if (queries.size() <= lanes / 2 || a.head_dim > tile_dim || a.value_dim > tile_dim)
      return false;
    index_t i = queries.begin;
    while (i < queries.end) {
      const index_t left = queries.end - i;
      const index_t taken = left < 2 * lanes ? left : 2 * lanes;
      if (taken <= lanes / 2 || !run_tile(a, steps, g, m, batch_index, head, i, taken))
        run_rows(a, steps, g, m, batch_index, head, i, taken);
      a.q += taken * steps.q;
      a.out += taken * steps.out;
      if (a.lse) a.lse += taken * steps.lse;
      i += taken;
    }
    return true;
  }

 private:
  template <element Q, element KV, element Out, class Modifier>
  static void run_rows(attention_row_args<Q, KV, Out> a, const row_steps& steps, const geometry& g,
                       const Modifier& m, index_t batch_index, index_t head, index_t first,
                       index_t queries) noexcept {
    for (index_t i = 0; i < queries; ++i) {
      attention_row<backend::simd<Arch>>(a, g, m, g.at(batch_index, head, first + i));
      a.q += steps.q;
      a.out += steps.out;
      if (a.lse) a.lse += steps.lse;
    }
  }

  template <element Q, element KV, element Out, class Modifier>
  static bool run_tile(const attention_row_args<Q, KV, Out>& a, const row_steps& steps,
                       const geometry& g, const Modifier& m, index_t batch_index, index_t head,
                       index_t first, index_t queries) noexcept {
    tile_geometry rows;
    rows.first_q_pos = g.at(batch_index, head, first).q_pos;
    rows.queries = queries;
    for (index_t i = 0; i < queries; ++i) {
      const range seen = seen_keys(g, m, g.at(batch_index, head, first + i));
      rows.seen[i] = seen;
      rows.common = i == 0 ? seen : intersect(rows.common, seen);
      // Keys between two rows' ranges are seen by none and must not be read.
      if (!rows.all.empty() && !seen.empty() &&
          (seen.begin > rows.all.end || seen.end < rows.all.begin))
        return false;
      rows.all = hull(rows.all, seen);
    }
    if (queries <= lanes)
      run_wide<1>(a, steps, g, m, batch_index, head, first, rows);
    else
      run_wide<2>(a, steps, g, m, batch_index, head, first, rows);
    return true;
  }

  template <index_t Vectors, element Q, element KV, element Out, class Modifier>
  [[gnu::flatten]] static void run_wide(const attention_row_args<Q, KV, Out>& a,
                                        const row_steps& steps, const geometry& g,
                                        const Modifier& m, index_t batch_index, index_t head,
                                        index_t first, const tile_geometry& rows) noexcept {
    using tile_type = tile<batch, Vectors>;
    tile_type t;
    pack_queries(t, a.q, steps.q, a.q_stride, rows.queries, a.head_dim);
    for (index_t i = 0; i < tile_type::width; ++i) {
      t.maximum[i] = lowest_value<Acc>();
      t.sum[i] = t.poison[i] = t.count[i] = Acc(0);
    }
    for (index_t i = 0; i < a.value_dim * tile_type::width; ++i) t.out[i] = Acc(0);

    const head_of h{batch_index, static_cast<int>(head)};
    const range q_range{rows.first_q_pos, rows.first_q_pos + rows.queries};
    for (index_t begin = rows.all.begin; begin < rows.all.end; begin += tile_keys) {
      const range block{begin, begin + tile_keys < rows.all.end ? begin + tile_keys : rows.all.end};
      const tile_effect effect = m.effect(h, q_range, block);
      if (effect == tile_effect::masked) continue;
      block_keys(a, t, block);
      index_t hidden = 0;
      range seen[tile_type::width];
      bool whole = rows.common.contains(block);
      for (index_t i = 0; i < tile_type::width; ++i)
        seen[i] = i < rows.queries ? intersect(rows.seen[i], block) : range{};
      if (effect == tile_effect::apply)
        for (index_t i = 0; i < rows.queries; ++i) {
          const row r{batch_index, h.head, rows.first_q_pos + i};
          hidden += modify_lane(m, h, r, block, t, i, &seen[i], &whole);
        }
      Acc shrink[tile_type::width];
      softmax_block(t, block, seen, whole, hidden > 0, shrink);
      block_values(a, t, block, !whole || hidden > 0, shrink);
    }
    finish(a, steps, g, m, batch_index, head, first, rows, t);
  }

  /// scores[j][i] of the keys of a block.
  template <index_t Vectors, element Q, element KV, element Out>
  ZEROTUNE_ALWAYS_INLINE static void block_keys(const attention_row_args<Q, KV, Out>& a,
                                                tile<batch, Vectors>& t, range block) {
    constexpr index_t group = tile<batch, Vectors>::group;
    const batch factor(a.softmax_scale);
    for (index_t j = 0; j < block.size(); j += converted_keys) {
      const index_t count = block.size() - j < converted_keys ? block.size() - j : converted_keys;
      const auto k = convert_rows(t, a.k + (block.begin + j) * a.k_row, a.k_row, a.k_stride, count,
                                  a.head_dim, false, [](index_t) { return false; });
      for (index_t i = 0; i < count; i += group)
        multiply_keys<group>(t, k.data + i * k.row, k.row, count - i, a.head_dim, factor,
                             t.scores + (j + i) * t.width);
    }
  }

  /// The modifier on one lane of the scores; returns the number of keys that it hides by bias.
  template <index_t Vectors, class Modifier>
  ZEROTUNE_ALWAYS_INLINE static index_t modify_lane(const Modifier& m, head_of h, row r,
                                                    range block, tile<batch, Vectors>& t,
                                                    index_t lane, range* seen, bool* whole) {
    if (seen->empty()) return 0;
    const tile_effect effect = m.effect(h, range{r.q_pos, r.q_pos + 1}, *seen);
    if (effect == tile_effect::masked) {
      *seen = range{};
      *whole = false;
    }
    if (effect != tile_effect::apply) return 0;
    const range changed = intersect(changed_keys(m, r), *seen);
    if (changed.empty()) return 0;
    Acc scores[tile_keys];
    Acc* const column = t.scores + (changed.begin - block.begin) * t.width + lane;
    for (index_t j = 0; j < changed.size(); ++j) scores[j] = column[j * t.width];
    const index_t hidden =
        modify_scores<backend::simd<Arch>>(m, r, changed, false, scores, &t.poison[lane]);
    for (index_t j = 0; j < changed.size(); ++j) column[j * t.width] = scores[j];
    return hidden;
  }

  /// Raises the maxima, turns scores into weights, adds to the sums. shrink is what the former sums
  /// and outputs are multiplied by.
  template <index_t Vectors>
  ZEROTUNE_ALWAYS_INLINE static void softmax_block(tile<batch, Vectors>& t, range block,
                                                   const range* seen, bool whole, bool hidden,
                                                   Acc* shrink) {
    const batch zero(Acc(0)), one(Acc(1)), mask(mask_bias<Acc>());
    for (index_t n = 0; n < Vectors; ++n) {
      const index_t lane = n * lanes;
      Acc* const scores = t.scores + lane;
      const batch former = batch::load_aligned(t.maximum + lane);
      batch maximum = former, poison = batch::load_aligned(t.poison + lane);
      batch count = batch::load_aligned(t.count + lane);
      if (whole && !hidden) {
        for (index_t j = 0; j < block.size(); ++j) {
          const batch x = batch::load_aligned(scores + j * t.width);
          maximum = xsimd::max(x, maximum);
          poison = multiply_add(x, zero, poison);
        }
        count += one;
      } else {
        Acc begins[lanes], ends[lanes];
        for (index_t i = 0; i < lanes; ++i) {
          begins[i] = static_cast<Acc>(seen[lane + i].begin - block.begin);
          ends[i] = static_cast<Acc>(seen[lane + i].end - block.begin);
          if (seen[lane + i].empty()) ends[i] = begins[i] = Acc(0);
        }
        const batch begin = batch::load_unaligned(begins), end = batch::load_unaligned(ends);
        const batch threshold(mask_threshold<Acc>);
        for (index_t j = 0; j < block.size(); ++j) {
          const batch x = batch::load_aligned(scores + j * t.width);
          const batch position(static_cast<Acc>(j));
          auto visible = (position >= begin) & (position < end);
          if (hidden) visible = visible & !(x <= threshold);
          poison += xsimd::select(visible, x * zero, zero);
          count += xsimd::select(visible, one, zero);
          const batch masked = xsimd::select(visible, x, mask);
          maximum = xsimd::max(masked, maximum);
          masked.store_aligned(scores + j * t.width);
        }
      }
      const batch factor = exp_nonpositive(former - maximum);
      batch sum = batch::load_aligned(t.sum + lane) * factor;
      for (index_t j = 0; j < block.size(); ++j) {
        const batch weight = exp_nonpositive(batch::load_aligned(scores + j * t.width) - maximum);
        weight.store_aligned(scores + j * t.width);
        sum += weight;
      }
      maximum.store_aligned(t.maximum + lane);
      poison.store_aligned(t.poison + lane);
      count.store_aligned(t.count + lane);
      sum.store_aligned(t.sum + lane);
      factor.store_unaligned(shrink + lane);
    }
  }

  /// out[c][i] += weights V. A value that no row of the tile sees is not read.
  template <index_t Vectors, element Q, element KV, element Out>
  ZEROTUNE_ALWAYS_INLINE static void block_values(const attention_row_args<Q, KV, Out>& a,
                                                  tile<batch, Vectors>& t, range block, bool masks,
                                                  const Acc* shrink_of) {
    constexpr index_t group = tile<batch, Vectors>::group;
    batch shrink[Vectors];
    for (index_t n = 0; n < Vectors; ++n) shrink[n] = batch::load_unaligned(shrink_of + n * lanes);
    for (index_t j = 0; j < block.size(); j += converted_keys) {
      const index_t count = block.size() - j < converted_keys ? block.size() - j : converted_keys;
      const Acc* const weights = t.scores + j * t.width;
      const auto unseen = [&](index_t key) {
        Acc total = 0;
        for (index_t i = 0; i < t.width; ++i) total += weights[key * t.width + i];
        return total == Acc(0);
      };
      bool skips = false;
      if (masks)
        for (index_t key = 0; key < count; ++key) skips |= unseen(key);
      const auto v = convert_rows(t, a.v + (block.begin + j) * a.v_row, a.v_row, a.v_stride, count,
                                  a.value_dim, skips, unseen);
      index_t c = 0;
      for (; c + group <= a.value_dim; c += group)
        multiply_values<group>(weights, v.data + c, v.row, count, shrink, t.out + c * t.width);
      for (; c < a.value_dim; ++c)
        multiply_values<1>(weights, v.data + c, v.row, count, shrink, t.out + c * t.width);
      for (index_t n = 0; n < Vectors; ++n) shrink[n] = batch(Acc(1));
    }
  }

  template <index_t Vectors, element Q, element KV, element Out, class Modifier>
  ZEROTUNE_ALWAYS_INLINE static void finish(attention_row_args<Q, KV, Out> a,
                                            const row_steps& steps, const geometry& g,
                                            const Modifier& m, index_t batch_index, index_t head,
                                            index_t first, const tile_geometry& rows,
                                            tile<batch, Vectors>& t) {
    alignas(64) Acc factor[tile<batch, Vectors>::width];
    for (index_t i = 0; i < t.width; ++i) {
      const bool none = t.count[i] == Acc(0);
      const Acc sum = t.sum[i] + t.poison[i];
      factor[i] = none ? Acc(0) : Acc(1) / sum;
      if (none)  // 0 * NaN: the values that other rows see
        for (index_t c = 0; c < a.value_dim; ++c) t.out[c * t.width + i] = Acc(0);
      if (a.lse && i < rows.queries)
        a.lse[i * steps.lse] = none ? minus_infinity(Acc{}) : t.maximum[i] + log_of(sum);
    }
    unpack_output(t, factor, a.out, steps.out, a.out_stride, rows.queries, a.value_dim);
    for (index_t i = 0; i < rows.queries; ++i) {
      // gamma = 0 excludes all that the row sees: it is computed as if gamma were 1.
      if (t.count[i] > Acc(0) && t.maximum[i] <= zero_threshold<Acc>)
        attention_row<backend::simd<Arch>>(a, g, m, g.at(batch_index, head, first + i));
      a.q += steps.q;
      a.out += steps.out;
      if (a.lse) a.lse += steps.lse;
    }
  }
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
