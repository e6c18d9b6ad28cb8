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
  static constexpr index_t vectors = sizeof(Batch) >= 32 ? 3 : 2;
  static constexpr index_t group = sizeof(Batch) >= 64 ? 8 : 4;
  static constexpr index_t width = vectors * lanes<Batch>;
};

constexpr index_t round_down(index_t x, index_t step) { return x / step * step; }
constexpr index_t round_up(index_t x, index_t step) { return (x + step - 1) / step * step; }

/// Numbers of a panel in scratch memory, and the rows that it stands for.
template <class Batch>
struct panel {
  using real = typename Batch::value_type;
  using shape = panel_shape<Batch>;
  static constexpr index_t width = shape::width, vectors = shape::vectors;

  real* q;    // [head_dim][width], times softmax_scale / ln 2
  real* out;  // [value_dim rounded up to group][width], not yet divided by the sum
  alignas(64) real maximum[width];  // of the logits / ln 2
  alignas(64) real sum[width];
  bool begun;                                         // q, maximum, sum and out are set
  index_t head, first, queries;                       // rows [first, first + queries) of the head
  index_t used;                                       // vectors that hold a query
  index_t q_pos;                                      // of the first row
  range all, common;                                  // keys that some row, that every row sees
  range seen[width];                                  // by row
  range vector_all[vectors], vector_common[vectors];  // `all` and `common` of each vector's rows
};

/// Fills in what the rows see. False if no row sees a key between two that rows see: such keys must
/// not be read.
template <class Batch, class Modifier>
bool find_visible(panel<Batch>& p, const geometry& g, const Modifier& m, index_t batch) {
  using panel_type = panel<Batch>;
  bool contiguous = true;
  p.q_pos = g.at(batch, p.head, p.first).q_pos;
  p.used = (p.queries + lanes<Batch> - 1) / lanes<Batch>;
  p.all = p.common = {};
  for (index_t n = 0; n < panel_type::vectors; ++n) p.vector_all[n] = p.vector_common[n] = {};
  for (index_t i = 0; i < p.queries; ++i) {
    const index_t n = i / lanes<Batch>;
    range seen = seen_keys(g, m, g.at(batch, p.head, p.first + i));
    if (seen.empty()) seen = {};
    contiguous &=
        p.all.empty() || seen.empty() || (seen.begin <= p.all.end && seen.end >= p.all.begin);
    p.seen[i] = seen;
    p.all = hull(p.all, seen);
    p.common = i == 0 ? seen : intersect(p.common, seen);
    p.vector_all[n] = hull(p.vector_all[n], seen);
    p.vector_common[n] = i % lanes<Batch> == 0 ? seen : intersect(p.vector_common[n], seen);
  }
  return contiguous;
}

/// A block of keys of one task: packed keys and values, both counted from `origin`.
template <class Real>
struct key_block {
  index_t origin;    // position of the block's first row
  range packed;      // positions that are packed
  const Real* keys;  // [key][key_row]; the rows that fill up a group are zero
  index_t key_row;
  const Real* values;  // [value_dim / group][value_tile], each [key][group]
  index_t value_tile;
  bool finite;  // no value is NaN or infinite
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
