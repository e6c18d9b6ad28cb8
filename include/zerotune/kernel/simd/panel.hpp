// SPDX-License-Identifier: Apache-2.0
// A panel: the queries of one head that attention works on together, one in each lane (layer:
// kernel). S^T = K Q^T and O^T = V^T P, so that maximum, exp, sum and masks are vertical and a lane
// never sees another one: a row's result depends on the row and on where blocks of keys end.
#pragma once

#include "zerotune/kernel/attention_problem.hpp"
#include "zerotune/kernel/simd/unrolled.hpp"
#include "zerotune/kernel/simd/xsimd_compat.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// How large a panel and its register tiles are: `group` keys, or columns of values, times
/// `vectors` batches of queries are summed in registers.
template <class Batch>
struct panel_shape {
  using batch = Batch;
  using real = typename Batch::value_type;
  static constexpr index_t vectors = sizeof(Batch) >= 32 ? 3 : 2;
  static constexpr index_t group = sizeof(Batch) >= 64 ? 8 : 4;
  static constexpr index_t width = vectors * lanes<Batch>;
};

constexpr index_t round_down(index_t x, index_t step) { return x / step * step; }
constexpr index_t round_up(index_t x, index_t step) { return (x + step - 1) / step * step; }

/// What becomes of a panel's outputs in memory when values are added: they are not set yet, kept,
/// or multiplied by what the maxima have risen by.
enum class former_sums { none, kept, shrunk };

/// Numbers of a panel in scratch memory, and the rows that it stands for.
template <class Shape>
struct panel {
  using real = typename Shape::real;
  static constexpr index_t width = Shape::width, vectors = Shape::vectors;

  real* q;                          // [head_dim][width], as the products read it
  real* out;                        // [value_dim, rounded up][width], not yet divided by the sum
  alignas(64) real maximum[width];  // of the logits / ln 2
  alignas(64) real sum[width];
  alignas(64) real sink[width];  // modified logits / ln 2 of the sink, if asked
  bool begun;                    // q, maximum and sum are set
  former_sums former;            // none or kept
  index_t head, first, queries;  // rows [first, first + queries) of the head
  index_t used;                  // vectors that hold a query
  index_t q_pos;                 // of the first row
  range all, common;             // keys that some row, that every row sees
  range seen[width];             // by row
  range vector_all[vectors], vector_common[vectors];  // `all` and `common` of each vector's rows
};

/// Fills in what the rows see. False if no row sees a key between two that rows see: such keys must
/// not be read.
template <class Shape, class Modifier>
bool find_visible(panel<Shape>& p, const geometry& g, const Modifier& m, index_t batch) {
  using batch_type = typename Shape::batch;
  bool contiguous = true;
  p.q_pos = g.at(batch, p.head, p.first).q_pos;
  p.used = (p.queries + lanes<batch_type> - 1) / lanes<batch_type>;
  p.all = p.common = {};
  for (index_t n = 0; n < Shape::vectors; ++n) p.vector_all[n] = p.vector_common[n] = {};
  for (index_t i = 0; i < p.queries; ++i) {
    const index_t n = i / lanes<batch_type>;
    range seen = seen_keys(g, m, g.at(batch, p.head, p.first + i));
    if (seen.empty()) seen = {};
    contiguous &=
        p.all.empty() || seen.empty() || (seen.begin <= p.all.end && seen.end >= p.all.begin);
    p.seen[i] = seen;
    p.all = hull(p.all, seen);
    p.common = i == 0 ? seen : intersect(p.common, seen);
    p.vector_all[n] = hull(p.vector_all[n], seen);
    p.vector_common[n] = i % lanes<batch_type> == 0 ? seen : intersect(p.vector_common[n], seen);
  }
  return contiguous;
}

/// A block of keys of one task, packed; rows and ranges of keys in it count from `origin`.
template <class Element>
struct key_block {
  index_t origin;   // position of the first row
  index_t size;     // rows that there is room for
  range packed;     // positions that are packed
  Element* keys;    // [key][key_row]
  Element* values;  // as the products read them
  bool finite;      // no value is NaN or infinite
};

/// Keys [begin, end) of a block, counted from its origin.
struct key_groups {
  index_t begin = 0, end = 0;
};

/// Keys whose weights are used: from `begin` to where each vector's end. The keys beyond are hidden
/// from all of its rows. `ends` do not fall from one vector to the next (a causal panel's are a
/// staircase).
template <class Shape>
struct value_range {
  index_t begin;
  index_t ends[Shape::vectors];
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
