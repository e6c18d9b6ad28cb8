// SPDX-License-Identifier: Apache-2.0
// What the forms share: where the queries stand, and the walk over rows (layer: apply).
#pragma once

#include <type_traits>

#include "zerotune/apply/checks.hpp"
#include "zerotune/core/executor.hpp"
#include "zerotune/kernel/geometry.hpp"
#include "zerotune/kernel/scalar/row_ops.hpp"

namespace zerotune {

/// Where keys end and queries begin, per sequence; both may be left empty.
struct sequence_options {
  /// [batch], each in [0, kv_len]: keys at or beyond are never read. Empty: kv_len each.
  tensor_view<const index_t, 1> kv_lengths{};
  /// [batch]: position of the first query. Empty: the queries are the last q_len positions.
  tensor_view<const index_t, 1> q_starts{};
};

inline namespace ZEROTUNE_ABI {
namespace impl {

/// Queries of one head that an executor's call takes. A constant: results never depend on threads.
inline constexpr index_t rows_per_task = 32;

inline geometry resolve(const char* function, const attention_shape& shape,
                        const sequence_options& options) {
  const auto check = [&](const char* name, const tensor_view<const index_t, 1>& view) {
    if (!view.data()) return;
    check_memory(function, name, view);
    check_extent(function, name, view, 0, "batch", shape.batch);
  };
  check("kv_lengths", options.kv_lengths);
  check("q_starts", options.q_starts);
  if (options.kv_lengths.data())
    for (index_t b = 0; b < shape.batch; ++b)
      if (options.kv_lengths(b) < 0 || options.kv_lengths(b) > shape.kv_len)
        fail(function, "kv_lengths[" + std::to_string(b) + "]",
             "a length in [0, " + std::to_string(shape.kv_len) + "]",
             std::to_string(options.kv_lengths(b)));
  if (options.q_starts.data())
    for (index_t b = 0; b < shape.batch; ++b)
      if (!everywhere.contains(options.q_starts(b)))
        fail(function, "q_starts[" + std::to_string(b) + "]", "a position below 2^62",
             std::to_string(options.q_starts(b)));
  return {shape, options.kv_lengths, options.q_starts};
}

/// The lists that a call reads beside its tensors.
inline void read_lists(call_tensors& tensors, const tensor_view<const index_t, 1>& kv_lengths,
                       const tensor_view<const index_t, 1>& q_starts) {
  if (kv_lengths.data()) tensors.read("kv_lengths", kv_lengths);
  if (q_starts.data()) tensors.read("q_starts", q_starts);
}

/// A tensor that a call changes in place, and the lists that it reads beside it.
template <class T, std::size_t Rank>
void check_in_place(const char* function, const char* name, const tensor_view<T, Rank>& view,
                    const sequence_options& options) {
  if (!options.kv_lengths.data() && !options.q_starts.data()) {
    check_output(function, name, view);
    return;
  }
  call_tensors tensors(function);
  read_lists(tensors, options.kv_lengths, options.q_starts);
  tensors.written(name, view);
}

/// A tensor of one number a row.
template <class Acc>
void check_row_shape(const char* function, const char* name, const tensor_view<Acc, 3>& rows,
                     const attention_shape& shape) {
  check_extent(function, name, rows, 0, "batch", shape.batch);
  check_extent(function, name, rows, 1, "num_heads", shape.num_heads);
  check_extent(function, name, rows, 2, "q_len", shape.q_len);
}

/// Forms that carry one number per row act on one key of a row; a modifier that changes more
/// (ALiBi, a span) does not fit them.
template <class Modifier>
void check_single_key(const char* function, const Modifier& m, const geometry& g) {
  for (index_t b = 0; b < g.shape.batch; ++b)
    for (index_t h = 0; h < g.shape.num_heads; ++h)
      for (index_t i = 0; i < g.shape.q_len; ++i) {
        const row r = g.at(b, h, i);
        const index_t changed = intersect(changed_keys(m, r), seen_keys(g, m, r)).size();
        if (changed > 1)
          fail(function, "modifier", "a bias on one key of a row", std::to_string(changed));
      }
}

/// Calls body(batch, head, first_q, last_q) for blocks of rows through the executor.
template <class Executor, class Body>
void for_row_blocks(Executor& executor, const attention_shape& shape, const Body& body) {
  const index_t blocks = (shape.q_len + rows_per_task - 1) / rows_per_task;
  executor.parallel_for(shape.batch * shape.num_heads * blocks, [&](index_t task) {
    const index_t first = task % blocks * rows_per_task;
    const index_t last = first + rows_per_task < shape.q_len ? first + rows_per_task : shape.q_len;
    body(task / blocks / shape.num_heads, task / blocks % shape.num_heads, first, last);
  });
}

/// Calls body(row pointer, row) for each row of [batch, num_heads, q_len, kv_len].
template <class Executor, class T, class Body>
void for_rows(Executor& executor, const tensor_view<T, 4>& rows, const geometry& g,
              const Body& body) {
  for_row_blocks(executor, g.shape, [&](index_t b, index_t h, index_t first, index_t last) {
    T* data = rows.pointer(b, h, first, 0);
    row r = g.at(b, h, first);
    for (index_t i = first;; data += rows.stride(2), ++r.q_pos) {
      body(data, r);
      if (++i == last) break;  // the pointer never goes beyond the last row
    }
  });
}

template <class E>
concept executor_reference = executor<std::remove_reference_t<E>>;

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
