// SPDX-License-Identifier: Apache-2.0
// The products of attention on bfloat16 through a matrix of tiles (layer:
// kernel): S^T = K Q^T and O^T = V^T P, 32 keys, or columns of values, by 32
// queries at a time. Keys and queries are not rounded, weights are, once.
#pragma once

#include "zerotune/kernel/simd/matrix_tiles.hpp"
#include "zerotune/kernel/simd/softmax_pairs.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// A panel of one square of tiles. (Two squares, which would share what they
/// load, were measured to be no faster.)
template <class Batch>
struct tile_shape {
  using batch = Batch;
  using real = float;
  static constexpr index_t width = 2 * tile_rows;
  static constexpr index_t vectors = width / lanes<Batch>;
  static constexpr index_t group = 2 * tile_rows;
};

/// As float_products (kernel/simd/float_products.hpp), for bfloat16 queries,
/// keys and values.
template <class Batch, class Tiles>
struct tile_products {
  using shape = tile_shape<Batch>;
  using real = float;
  using element = bfloat16;
  using weight = std::uint32_t;
  static constexpr bool takes_turns = false, sets_output = false;
  static constexpr index_t block_multiple = 1;
  using session = Tiles;
  static_assert(std::is_same_v<typename Batch::value_type, float>);

  static constexpr index_t step = shape::group;  // of keys, of coordinates and of columns
  /// Rows begin in different sets of the first-level cache.
  static index_t key_row(index_t head_dim) { return round_up(head_dim, 8 * step) + step; }
  static index_t value_row(index_t keys) { return round_up(keys, 8 * step) + step; }

  static index_t query_size(index_t head_dim) {
    return round_up(head_dim, step) / 2 * shape::width;
  }
  static index_t output_size(index_t value_dim) { return round_up(value_dim, step) * shape::width; }
  static index_t key_size(index_t keys, index_t head_dim) { return keys * key_row(head_dim); }
  static index_t value_size(index_t keys, index_t value_dim) {
    return round_up(value_dim, step) * value_row(keys);
  }
  static index_t weight_size(index_t keys) { return keys / 2 * shape::width; }

  /// A factor in the queries would round them: scores get it.
  static real score_factor(real factor) { return factor; }
  static void pack_queries(panel<shape>& p, const row_view<bfloat16>& q, real) noexcept {
    pack_query_pairs(p, q, round_up(q.columns, step));
  }
  static void pack_keys(const key_block<element>& b, const row_view<bfloat16>& k,
                        range rows) noexcept {
    pack_key_pairs<Batch>(k, rows, round_up(k.columns, step), b.keys, key_row(k.columns));
  }
  static bool pack_values(const key_block<element>& b, const row_view<bfloat16>& v,
                          range rows) noexcept {
    return pack_value_columns<Batch>(v, rows, round_up(v.columns, step), b.values,
                                     value_row(b.size));
  }

  static void score(session& tiles, const panel<shape>& p, const key_block<element>& b, index_t j,
                    index_t first, index_t last, index_t head_dim, real* scores) noexcept {
    const index_t row = key_row(head_dim);
    const tile_square<Tiles> square{tiles};
    const auto* const q = reinterpret_cast<const std::uint32_t*>(p.q);
    for (index_t i = round_down(first, square_vectors) * lanes<Batch>; i < last * lanes<Batch>;
         i += step) {
      square.zero();
      for (index_t c = 0; c < head_dim; c += step)
        square.add(b.keys + j * row + c, row, q + c / 2 * shape::width + i, shape::width);
      square.store(scores + j * shape::width + i, shape::width);
    }
  }

  static void weigh(panel<shape>& p, index_t n, key_groups groups, const value_range<shape>& values,
                    real factor, bool biased, real* scores, weight* weights,
                    real* shrink) noexcept {
    if (biased)
      exponentiate_pairs<true>(p, n, groups, factor, scores, weights, shrink);
    else
      exponentiate_pairs<false>(p, n, groups, factor, scores, weights, shrink);
    const range used = square_keys(p, values, n * lanes<Batch>);
    clear_pairs<shape>(n, used.begin, groups.begin, weights);
    clear_pairs<shape>(n, groups.end, used.end, weights);
  }

  static void add_values(session& tiles, panel<shape>& p, const key_block<element>& b,
                         const value_range<shape>& keys, const real*, const weight* weights,
                         former_sums, const real* shrink, index_t value_dim) noexcept {
    const index_t row = value_row(b.size), columns = round_up(value_dim, step);
    shrink_output(p, shrink, columns);
    if (!b.finite) return add_guarded(p, b.values, row, keys, weights, value_dim);
    const tile_square<Tiles> square{tiles};
    for (index_t c = 0; c < columns; c += step)
      for (index_t i = 0; i < p.used * lanes<Batch>; i += step) {
        const range used = square_keys(p, keys, i);
        if (used.empty()) continue;
        real* const out = p.out + c * shape::width + i;
        square.load(out, shape::width);
        for (index_t j = used.begin; j < used.end; j += step)
          square.add(b.values + c * row + j, row, weights + j / 2 * shape::width + i, shape::width);
        square.store(out, shape::width);
      }
  }

 private:
  static constexpr index_t square_vectors = step / lanes<Batch>;

  /// The keys, in whole tiles, whose weights are used for the square of query
  /// i.
  static range square_keys(const panel<shape>& p, const value_range<shape>& keys, index_t i) {
    const index_t beyond = i / step * square_vectors + square_vectors;
    const index_t last = (beyond < p.used ? beyond : p.used) - 1;
    return {round_down(keys.begin, step), round_up(keys.ends[last], step)};
  }

  /// Values that are not finite reach only the rows whose weight is not zero.
  [[gnu::flatten]] static void add_guarded(panel<shape>& p, const element* values, index_t row,
                                           const value_range<shape>& values_used,
                                           const weight* weights, index_t value_dim) noexcept {
    for (index_t n = 0; n < p.used; ++n)
      for (index_t c = 0; c < value_dim; ++c) {
        const range keys = square_keys(p, values_used, n * lanes<Batch>);
        real* const at = p.out + c * shape::width + n * lanes<Batch>;
        Batch sum = Batch::load_aligned(at);
        for (index_t j = keys.begin; j < keys.end; j += 2) {
          word_vector<Batch> pair;
          __builtin_memcpy(&pair, weights + j / 2 * shape::width + n * lanes<Batch>, sizeof pair);
          const element* const v = values + c * row + j;
          sum = add_unless_zero(from_words<Batch>(pair << 16), v[0], sum);
          sum = add_unless_zero(from_words<Batch>(pair & 0xffff0000u), v[1], sum);
        }
        sum.store_aligned(at);
      }
  }
  ZEROTUNE_ALWAYS_INLINE static Batch add_unless_zero(const Batch& w, element v, const Batch& sum) {
    return xsimd::select(w == Batch(0.0f), sum, multiply_add(w, Batch(static_cast<float>(v)), sum));
  }
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
