// SPDX-License-Identifier: Apache-2.0
// Scores and weights of keys that every row of a panel sees and no modifier changes (layer:
// kernel). Scores never reach memory: two half tiles take turns, and while the products of one
// accumulate, those of the other, still in registers, become weights. An out-of-order processor
// does both at once.
#pragma once

#include "zerotune/kernel/simd/block_softmax.hpp"
#include "zerotune/kernel/simd/operands.hpp"
#include "zerotune/kernel/simd/prefetch.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Half a group of keys by a panel of queries, in registers.
template <class Operand>
class half_tile {
  using Batch = typename Operand::batch;
  using shape = panel_shape<Batch>;
  using element = typename Operand::element;

 public:
  static constexpr index_t keys = shape::group / 2;
  Batch sums[keys][shape::vectors];

  ZEROTUNE_ALWAYS_INLINE void clear() {
    unrolled<keys>([&](auto j) __attribute__((always_inline)) {
      unrolled<shape::vectors>([&](auto n) __attribute__((always_inline)) {
        sums[j][n] = Batch(typename Batch::value_type(0));
      });
    });
  }

  /// The next `depth` elements of each product.
  ZEROTUNE_ALWAYS_INLINE void add(const element*& q, const element*& k, index_t k_row,
                                  index_t depth) {
#pragma GCC unroll 1
    for (; depth > 0; --depth, ++k, q += shape::width) {
      Operand queries[shape::vectors];
      unrolled<shape::vectors>([&](auto n) __attribute__((always_inline)) {
        queries[n] = Operand::load(q + n * lanes<Batch>);
      });
      unrolled<keys>([&](auto j) __attribute__((always_inline)) {
        const Operand x = Operand::splat(k[j * k_row]);
        unrolled<shape::vectors>([&](auto n) __attribute__((always_inline)) {
          sums[j][n] = queries[n].multiply(x, sums[j][n]);
        });
      });
    }
  }
};

/// Keys [run.begin, run.end), whole groups; weights of the first at `weights`. `k` is that key's
/// row. After every few products `fetched` lines of `ahead` are asked for.
template <class Operand, class Weights>
[[gnu::noinline, gnu::flatten]] void score_run(const typename Operand::element* q,
                                               const typename Operand::element* k, index_t k_row,
                                               index_t depth, key_groups run,
                                               block_sums<panel_shape<typename Operand::batch>>& s,
                                               typename Weights::weight* weights,
                                               prefetch_queue& ahead, index_t fetched) noexcept {
  using shape = panel_shape<typename Operand::batch>;
  using element = typename Operand::element;
  using tile = half_tile<Operand>;
  constexpr index_t width = shape::width, lanes = impl::lanes<typename Operand::batch>;
  constexpr index_t pairs = tile::keys / 2, pieces = pairs * shape::vectors;
  const index_t each = depth / pieces;

  const auto weigh = [&](const tile& t, auto pair, auto n) __attribute__((always_inline)) {
    weigh_pair<Weights>(s, n * lanes, t.sums[2 * pair][n], t.sums[2 * pair + 1][n],
                        weights + 2 * pair / Weights::keys_of_row * width + n * lanes);
  };
  const auto turn = [&](tile & products, const tile& scores) __attribute__((always_inline)) {
    const element* at = q;
    products.clear();
    unrolled<pairs>([&](auto pair) __attribute__((always_inline)) {
      unrolled<shape::vectors>([&](auto n) __attribute__((always_inline)) {
        weigh(scores, pair, n);
        ahead.fetch(fetched);
        products.add(at, k, k_row, each);
      });
    });
    products.add(at, k, k_row, depth - pieces * each);
    k += tile::keys * k_row - depth;
    weights += tile::keys / Weights::keys_of_row * width;
  };
  const auto close_parts = [&]() __attribute__((always_inline)) {
    unrolled<shape::vectors>([&](auto n)
                                 __attribute__((always_inline)) { close_part(s, n * lanes); });
  };

  tile first, second;
  const element* at = q;
  first.clear();
  first.add(at, k, k_row, depth);
  k += tile::keys * k_row - depth;
  for (index_t j = run.begin;;) {
    turn(second, first);
    j += shape::group;
    if (j >= run.end) break;
    turn(first, second);
    if (j % summed_keys == 0) close_parts();
  }
  unrolled<pairs>([&](auto pair) __attribute__((always_inline)) {
    unrolled<shape::vectors>([&](auto n)
                                 __attribute__((always_inline)) { weigh(second, pair, n); });
  });
  if (run.end % summed_keys == 0) close_parts();
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
