// SPDX-License-Identifier: Apache-2.0
// Asking memory for rows of a cache ahead of their use (layer: kernel), a few lines between the
// products: requests in bursts find no free miss buffer and are dropped.
#pragma once

#include <cstdint>

#include "zerotune/kernel/decode_ops.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

inline constexpr index_t line_bytes = 64;

/// Asks for the lines of bytes [begin, end) of Rows rows, for a level of the caches.
template <index_t Rows, int Locality, class T>
ZEROTUNE_ALWAYS_INLINE void ask_for_lines(const T* const* rows, index_t begin, index_t end) {
  // Else compilers keep the address of each element of `rows` in a register of its own.
  asm("" : "+r"(rows));
  for (index_t n = 0; n < Rows; ++n)
    for (index_t at = begin; at < end; at += line_bytes)
      // An address, not a pointer: a prefetch may go anywhere.
      __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(rows[n]) +
                                                       static_cast<std::uintptr_t>(at)),
                         0, Locality);
}

/// Asks for the lines of bytes [begin, end) of Rows rows ahead of row j: from a cache to the first
/// level, unless it is used much later; from memory to the second, since few lines can be under way
/// to the first.
template <index_t Rows, int FromCache = 3, class T>
ZEROTUNE_ALWAYS_INLINE void fetch_lines(const rows_ahead<T>& ahead, index_t j, index_t begin,
                                        index_t end) {
  if (ahead.asks == 0) return;
  const T* const* const rows = ahead.rows + j;
  if (ahead.asks == 1) {
    ask_for_lines<Rows, FromCache>(rows + ahead.distance[0], begin, end);
    return;
  }
  ask_for_lines<Rows, 2>(rows + ahead.distance[0], begin, end);
  ask_for_lines<Rows, 2>(rows + ahead.distance[1], begin, end);
  ask_for_lines<Rows, 2>(rows + ahead.distance[2], begin, end);
}

/// With vectors of 512 bits a step between products is a line or more of a row, which is asked for
/// then; shorter ones would look for lines too often, and whole rows are asked for at once.
template <class Batch>
inline constexpr bool fetches_in_pieces =
    Batch::size * sizeof(typename Batch::value_type) == line_bytes;

/// The lines that begin in elements [c, c + Columns) of the rows.
template <index_t Rows, index_t Columns, class T>
ZEROTUNE_ALWAYS_INLINE void fetch_columns(const rows_ahead<T>& ahead, index_t j, index_t c) {
  constexpr index_t bytes = Columns * index_t{sizeof(T)};
  const index_t begin = c * index_t{sizeof(T)};
  if (bytes < line_bytes && begin % line_bytes != 0) return;
  fetch_lines<Rows>(ahead, j, begin, begin + bytes);
}

/// The lines that begin behind element c.
template <index_t Rows, class T>
ZEROTUNE_ALWAYS_INLINE void fetch_rest(const rows_ahead<T>& ahead, index_t j, index_t c) {
  const index_t begin = (c * index_t{sizeof(T)} + line_bytes - 1) / line_bytes * line_bytes;
  if (begin < ahead.bytes) fetch_lines<Rows>(ahead, j, begin, ahead.bytes);
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
