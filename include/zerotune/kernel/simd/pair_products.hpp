// SPDX-License-Identifier: Apache-2.0
// The products of attention on bfloat16 by dot products of pairs (layer:
// kernel): AVX512-BF16, on processors where it is faster than float. Keys and
// queries are not rounded, weights are, once.
#pragma once

#include "zerotune/kernel/simd/score_run.hpp"
#include "zerotune/kernel/simd/score_tile.hpp"
#include "zerotune/kernel/simd/softmax_pairs.hpp"
#include "zerotune/kernel/simd/value_tile.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// As float_products (kernel/simd/float_products.hpp), for bfloat16 queries,
/// keys and values. A tile of values holds the even or the odd ones of 2 *
/// group columns: so they come out of pairs of columns.
template <class Batch>
struct pair_products {
  using shape = panel_shape<Batch>;
  using operand = pair_operand<Batch>;
  using real = float;
  using element = std::uint32_t;
  using weight = std::uint32_t;
  /// With whatever registers there are: other processors never take this path, tests do.
  static constexpr bool takes_turns = true;
  static constexpr index_t block_multiple = 8;
  using weights_of_scores = pair_weights<Batch>;
  static constexpr bool sets_output = true;
  struct session {};
  static_assert(std::is_same_v<typename Batch::value_type, float>);

  static constexpr index_t columns_step = 2 * shape::group;
  /// Words of a row of keys, which is packed in whole vectors.
  static index_t key_row(index_t head_dim) { return round_up(head_dim, 128) / 2 + 16; }
  static index_t value_tile_step(index_t keys) { return keys / 2 * shape::group + 16; }

  static index_t query_size(index_t head_dim) { return (head_dim + 1) / 2 * shape::width; }
  static index_t output_size(index_t value_dim) {
    return round_up(value_dim, columns_step) * shape::width;
  }
  static index_t key_size(index_t keys, index_t head_dim) { return keys * key_row(head_dim); }
  static index_t value_size(index_t keys, index_t value_dim) {
    return round_up(value_dim, columns_step) / shape::group * value_tile_step(keys);
  }
  static index_t weight_size(index_t keys) { return keys / 2 * shape::width; }

  static real score_factor(real factor) { return factor; }
  static void pack_queries(panel<shape>& p, const row_view<bfloat16>& q, real) noexcept {
    pack_query_pairs(p, q, round_up(q.columns, 2));
  }
  static void pack_keys(const key_block<element>& b, const row_view<bfloat16>& k,
                        range rows) noexcept {
    pack_key_pairs<Batch>(k, rows, round_up(k.columns, 2 * lanes<Batch>),
                          reinterpret_cast<bfloat16*>(b.keys), 2 * key_row(k.columns));
  }
  static bool pack_values(const key_block<element>& b, const row_view<bfloat16>& v,
                          range rows) noexcept {
    return pack_value_pairs<shape>(v, rows, round_up(v.columns, columns_step), b.values,
                                   value_tile_step(b.size));
  }

  static void score(session&, const panel<shape>& p, const key_block<element>& b, index_t j,
                    index_t first, index_t last, index_t head_dim, real* scores) noexcept {
    const index_t row = key_row(head_dim);
    score_group<operand>(reinterpret_cast<const element*>(p.q), first, last, b.keys + j * row, row,
                         (head_dim + 1) / 2, scores + j * shape::width);
  }

  static void score_run(const panel<shape>& p, const key_block<element>& b, key_groups run,
                        block_sums<shape>& sums, index_t head_dim, weight* weights,
                        prefetch_queue& ahead, index_t fetched) noexcept {
    const index_t row = key_row(head_dim);
    impl::score_run<operand, weights_of_scores>(
        reinterpret_cast<const element*>(p.q), b.keys + run.begin * row, row, (head_dim + 1) / 2,
        run, sums, weights + run.begin / 2 * shape::width, ahead, fetched);
  }
  static weight* weights_in(real*, weight* weights) { return weights; }
  static void clear(index_t n, index_t begin, index_t end, weight* weights) noexcept {
    clear_pairs<shape>(n, begin, end, weights);
  }

  static void add_values(session&, panel<shape>& p, const key_block<element>& b,
                         const value_range<shape>& keys, const real*, const weight* weights,
                         former_sums former, const real* shrink, index_t value_dim) noexcept {
    value_range<shape> pairs{keys.begin / 2, {}};
    for (index_t n = 0; n < p.used; ++n) pairs.ends[n] = (keys.ends[n] + 1) / 2;
    const element* v = b.values;
    for (index_t c = 0; c < value_dim; c += columns_step)
      for (index_t odd = 0; odd < 2; ++odd, v += value_tile_step(b.size))
        add_value_columns<operand>(p.used, b.finite, weights, v, pairs, former, shrink,
                                   p.out + (c + odd) * shape::width, 2 * shape::width);
  }
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
