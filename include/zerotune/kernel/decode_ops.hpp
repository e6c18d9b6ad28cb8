// SPDX-License-Identifier: Apache-2.0
// Rows of a key-value cache, and what a back end does with them in decode (layer: kernel); the
// scalar back end's operations are the model.
#pragma once

#include "zerotune/core/q8_0.hpp"
#include "zerotune/kernel/kernel.hpp"
#include "zerotune/kernel/scalar/row_ops.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Keys of one step, queries that go along together, and elements that a row in the workspace is
/// padded to a multiple of (two of the widest vectors).
inline constexpr index_t decode_keys = 64;
inline constexpr index_t decode_rows = 32;
inline constexpr index_t decode_padding = 32;
/// The greatest head_dim and value_dim: rows that have to be converted are copied to the stack.
inline constexpr index_t decode_dim = 4096;

ZEROTUNE_ALWAYS_INLINE constexpr index_t padded_dim(index_t dim) {
  return (dim + decode_padding - 1) / decode_padding * decode_padding;
}

/// The rows of one key-value head of K or V: evenly spaced, or in pages.
template <cache_element T>
struct kv_rows {
  const T* base;                        // row 0, or row 0 of page 0
  index_t row, stride;                  // steps to the next row (of a page) and to the next cell
  const std::int32_t* table = nullptr;  // page of each page_size positions; null: no pages
  index_t table_stride = 0, page = 0, page_size = 0;

  const T* at(index_t j) const noexcept {
    if (!table) return base + j * row;
    const index_t number = j / page_size;
    return base + page * table[number * table_stride] + (j - number * page_size) * row;
  }
  /// Rows that may lie in one page of memory.
  index_t rows_of_memory_page() const noexcept {
    constexpr index_t memory_page = 4096;
    const index_t bytes = (row < 0 ? -row : row) * static_cast<index_t>(sizeof(T));
    const index_t rows = bytes > 0 && bytes < memory_page ? memory_page / bytes : 1;
    return table && page_size < rows ? page_size : rows;
  }
  /// Addresses of the rows of some keys.
  void locate(range keys, const T** rows) const noexcept {
    if (!table) {
      const T* const first = base;  // not a member, which a row might overwrite
      const index_t step = row, begin = keys.begin, count = keys.size();
      for (index_t n = 0; n < count; ++n) rows[n] = first + (begin + n) * step;
      return;
    }
    for (index_t j = keys.begin; j < keys.end;) {
      const index_t number = j / page_size, end = (number + 1) * page_size;
      const T* const from = at(j);
      const index_t step = row, count = (end < keys.end ? end : keys.end) - j;
      for (index_t n = 0; n < count; ++n) rows[n] = from + n * step;
      rows += count, j += count;
    }
  }
};

/// Rows to fetch while others are worked on: beside row j of those that are worked on, the rows
/// j + distance[0], j + distance[1], ... of the list that they stand in, each less than
/// decode_ahead further. A processor drops what it is asked for while too many lines are under way:
/// what comes from memory is asked for several times.
inline constexpr index_t decode_ahead = 2 * decode_keys;
template <class T>
struct rows_ahead {
  const T* const* rows = nullptr;
  index_t bytes = 0;  // of a row
  index_t asks = 0;   // distances that count
  index_t distance[3] = {};
  ZEROTUNE_ALWAYS_INLINE rows_ahead beside(const T* const* first) const {
    return {first, bytes, asks, {distance[0], distance[1], distance[2]}};
  }
};

/// The operations of a back end on the queries of a group, for a cache of T. Query, scores and
/// output rows are of the accumulator; `stride` is the cache's step between cells.
///
///   void pack(const Q* q, index_t q_stride, index_t dim, acc* packed)
///       a query in the order that `scores` takes; packed has room for padded_dim(dim)
///   void scores(const acc* packed, index_t packed_row, index_t rows, const T* const* keys,
///               index_t stride, index_t count, index_t dim, acc factor, acc* scores,
///               const rows_ahead<T>& ahead)
///       scores[i][j] = factor <q_i, k_j>, decode_keys apart
///   void accumulate(const acc* weights, index_t rows, const T* const* values, index_t stride,
///                   index_t count, index_t dim, acc* out, index_t out_row, ahead)
///       out_i += sum_j weights[i][j] v_j in an order of its own
///   void unpack(acc* out, index_t dim)                      puts the columns in their order
///   acc raise_maximum(acc* scores, index_t count, acc maximum, acc* poison)
///       the greatest of all; adds 0 * score to the lanes of poison. It may write behind the scores
///   void weigh(acc* scores, index_t count, acc maximum, acc* sum)
///       scores become exp(score - maximum) and are added to the lanes of sum
/// A query's sum and poison are kept in `lanes` numbers, which are added when the part is done. A
/// maximum is raised if a score is above it by more than raise_beyond. If tile_rows is not 0, and
/// decode_keys contiguous keys are seen by as many queries and not changed by a modifier:
///   void weigh_tile(const acc* packed, index_t packed_row, const T* const* keys, index_t dim,
///                   acc factor, acc (&maximum)[tile_rows], acc (&totals)[tile_rows][lanes],
///                   acc (*poison)[lanes], weight* weights, ahead)
///       scores, maxima and weights in one; what is to be added to the sums goes to totals
///   void add_tile(const weight* weights, const T* const* values, index_t dim, acc* out,
///                 index_t out_row, ahead)
///       accumulate for these weights
/// with the same bits as the functions above.
template <class Backend, cache_element T>
struct decode_ops;

/// Calls body with the operations for queries of Q: those of decode_ops, unless a back end has
/// better ones.
template <class Backend, element Q, cache_element KV>
struct decode_choice {
  template <class Body>
  static void with(const Body& body) {
    body(decode_ops<Backend, KV>{});
  }
};

template <cache_element T>
struct decode_ops<backend::scalar, T> {
  using acc = accumulator_t<T>;

  static acc at(const T* row, index_t stride, index_t i) noexcept {
    if constexpr (std::is_same_v<T, q8_0>)
      return static_cast<float>(row[i / q8_0::size * stride].scale) *
             static_cast<float>(row[i / q8_0::size * stride].values[i % q8_0::size]);
    else
      return static_cast<acc>(row[i * stride]);
  }
  template <element Q>
  static void pack(const Q* q, index_t q_stride, index_t dim, acc* packed) noexcept {
    for (index_t i = 0; i < dim; ++i)
      packed[i] = static_cast<acc>(static_cast<accumulator_t<Q>>(q[i * q_stride]));
  }
  static void scores(const acc* packed, index_t packed_row, index_t rows, const T* const* keys,
                     index_t stride, index_t count, index_t dim, acc factor, acc* scores,
                     const rows_ahead<T>&) noexcept {
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < count; ++j) {
        acc total = 0;
        for (index_t c = 0; c < dim; ++c)
          total += packed[i * packed_row + c] * at(keys[j], stride, c);
        scores[i * decode_keys + j] = factor * total;
      }
  }
  static void accumulate(const acc* weights, index_t rows, const T* const* values, index_t stride,
                         index_t count, index_t dim, acc* out, index_t out_row,
                         const rows_ahead<T>&) noexcept {
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < count; ++j)
        for (index_t c = 0; c < dim; ++c)
          out[i * out_row + c] += weights[i * decode_keys + j] * at(values[j], stride, c);
  }
  static void unpack(acc*, index_t) noexcept {}

  static constexpr index_t lanes = 1, tile_rows = 0;
  using weight = acc;
  static constexpr acc raise_beyond = 0;
  static acc raise_maximum(acc* scores, index_t count, acc maximum, acc* poison) noexcept {
    for (index_t j = 0; j < count; ++j) {
      *poison += scores[j] * acc(0);
      maximum = scores[j] > maximum ? scores[j] : maximum;
    }
    return maximum;
  }
  static void weigh(acc* scores, index_t count, acc maximum, acc* sum) noexcept {
    *sum += row_ops<backend::scalar, acc>::exp_and_sum(scores, maximum, count);
  }
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
