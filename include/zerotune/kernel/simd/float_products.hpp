// SPDX-License-Identifier: Apache-2.0
// The products of attention in the accumulator's type (layer: kernel): fused
// multiply-adds on keys and values converted while they are packed.
#pragma once

#include "zerotune/kernel/simd/pack.hpp"
#include "zerotune/kernel/simd/score_run.hpp"
#include "zerotune/kernel/simd/score_tile.hpp"
#include "zerotune/kernel/simd/softmax_tile.hpp"
#include "zerotune/kernel/simd/value_tile.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// What panel_task (kernel/simd/panel_task.hpp) is built on: how queries, keys
/// and values are packed, and both products. Keys are taken in multiples of
/// `shape::group`.
template <class Batch>
struct float_products {
  using shape = panel_shape<Batch>;
  using real = typename Batch::value_type;
  using operand = number_operand<Batch>;
  using element = real;  // of packed keys and values
  using weight = real;   // weights take the place of the scores
  /// Whether scores become weights under the products (kernel/simd/score_run.hpp): it takes 32
  /// registers.
  static constexpr bool takes_turns = sizeof(Batch) >= 64;
  /// A block may be so much longer than the scores that fit into the plan, as they stay in
  /// registers: outputs are loaded and stored less often.
  static constexpr index_t block_multiple = takes_turns ? 2 : 1;
  using weights_of_scores = number_weights<Batch>;
  /// The first values that are added set a panel's outputs.
  static constexpr bool sets_output = true;
  /// State of the processor while a task is worked on: none here.
  struct session {};

  static constexpr index_t line = static_cast<index_t>(64 / sizeof(real));

  /// A row of keys and a tile of values are a cache line away from multiples of
  /// 512 bytes, so that neighbours do not meet in the same set of the
  /// first-level cache.
  static index_t key_row(index_t head_dim) { return round_up(head_dim, 8 * line) + line; }
  static index_t value_tile_step(index_t keys) { return keys * shape::group + line; }

  /// Numbers of scratch memory: a panel's queries and outputs, a block's keys,
  /// values and weights.
  static index_t query_size(index_t head_dim) { return head_dim * shape::width; }
  static index_t output_size(index_t value_dim) {
    return round_up(value_dim, shape::group) * shape::width;
  }
  static index_t key_size(index_t keys, index_t head_dim) { return keys * key_row(head_dim); }
  static index_t value_size(index_t keys, index_t value_dim) {
    return round_up(value_dim, shape::group) / shape::group * value_tile_step(keys);
  }
  static index_t weight_size(index_t) { return 0; }

  /// Queries are packed in units of log 2, so that scores need no factor.
  template <class T>
  static void pack_queries(panel<shape>& p, const row_view<T>& q, real factor) noexcept {
    impl::pack_queries(p, q.data, q.row_step, q.stride, q.columns, factor);
  }
  static real score_factor(real) { return real(1); }
  template <class T>
  static void pack_keys(const key_block<element>& b, const row_view<T>& k, range rows) noexcept {
    impl::pack_keys<Batch>(k, rows, b.keys, key_row(k.columns));
  }
  template <class T>
  static bool pack_values(const key_block<element>& b, const row_view<T>& v, range rows) noexcept {
    return impl::pack_values<shape>(v, rows, b.values, value_tile_step(b.size));
  }

  /// Scores of the group of keys at row j, for vectors [first, last).
  static void score(session&, const panel<shape>& p, const key_block<element>& b, index_t j,
                    index_t first, index_t last, index_t head_dim, real* scores) noexcept {
    const index_t row = key_row(head_dim);
    score_group<operand>(p.q, first, last, b.keys + j * row, row, head_dim,
                         scores + j * shape::width);
  }

  /// Scores of the keys of a run, as weights.
  static void score_run(const panel<shape>& p, const key_block<element>& b, key_groups run,
                        block_sums<shape>& sums, index_t head_dim, real* weights,
                        prefetch_queue& ahead, index_t fetched) noexcept {
    const index_t row = key_row(head_dim);
    impl::score_run<operand, weights_of_scores>(p.q, b.keys + run.begin * row, row, head_dim, run,
                                                sums, weights + run.begin * shape::width, ahead,
                                                fetched);
  }
  /// Where the weights are.
  static real* weights_in(real* scores, weight*) { return scores; }
  static void clear(index_t n, index_t begin, index_t end, real* weights) noexcept {
    clear_weights<shape>(n, begin, end, weights);
  }

  /// Scores to weights, for the groups of vector n; weights of zero beside
  /// them, up to where some vector's are used.
  static void weigh(panel<shape>& p, index_t n, key_groups groups, const value_range<shape>& values,
                    real, bool, real* scores, weight*, real* shrink) noexcept {
    exponentiate<shape>(p, n, groups, scores, shrink);
    clear_weights<shape>(n, values.begin, groups.begin, scores);
    clear_weights<shape>(n, groups.end, values.ends[n], scores);
  }

  /// Outputs of a panel: shrink them, add the weighted values.
  static void add_values(session&, panel<shape>& p, const key_block<element>& b,
                         const value_range<shape>& keys, const real* weights, const weight*,
                         former_sums former, const real* shrink, index_t value_dim) noexcept {
    const element* v = b.values;
    for (index_t c = 0; c < value_dim; c += shape::group, v += value_tile_step(b.size))
      add_value_columns<operand>(p.used, b.finite, weights, v, keys, former, shrink,
                                 p.out + c * shape::width, shape::width);
  }
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
