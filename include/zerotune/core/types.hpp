// SPDX-License-Identifier: Apache-2.0
// Element types, index type, ranges and positions that every layer speaks of (layer: core).
#pragma once

#include <cstddef>
#include <cstdint>

#include "zerotune/core/config.hpp"
#include "zerotune/core/float16.hpp"

namespace zerotune {

/// Extents, strides and positions: 64 bits, signed, because positions before a chunk are negative.
using index_t = std::int64_t;

/// Half-open interval of positions [begin, end); empty when end <= begin.
struct range {
  index_t begin = 0;
  index_t end = 0;

  ZEROTUNE_ALWAYS_INLINE constexpr index_t size() const { return end > begin ? end - begin : 0; }
  ZEROTUNE_ALWAYS_INLINE constexpr bool empty() const { return end <= begin; }
  ZEROTUNE_ALWAYS_INLINE constexpr bool contains(index_t position) const {
    return begin <= position && position < end;
  }
  ZEROTUNE_ALWAYS_INLINE constexpr bool contains(range other) const {
    return other.empty() || (begin <= other.begin && other.end <= end);
  }
};

/// The positions that lie in both.
ZEROTUNE_ALWAYS_INLINE constexpr range intersect(range a, range b) {
  return {a.begin > b.begin ? a.begin : b.begin, a.end < b.end ? a.end : b.end};
}

/// The least interval that holds both; an empty one adds nothing.
ZEROTUNE_ALWAYS_INLINE constexpr range hull(range a, range b) {
  if (a.empty()) return b;
  if (b.empty()) return a;
  return {a.begin < b.begin ? a.begin : b.begin, a.end > b.end ? a.end : b.end};
}

/// All positions: what a modifier without masks sees. Its size still fits index_t.
inline constexpr range everywhere{1 - (index_t{1} << 62), index_t{1} << 62};

/// One row of attention: a query of one head of one sequence. `q_pos` is logical: the position of
/// the query in its sequence, as the keys' positions are.
struct row {
  index_t batch = 0;
  int head = 0;
  index_t q_pos = 0;
};

/// A query head of one sequence; a modifier that does not care for the sequence takes an int.
struct head_of {
  index_t batch = 0;
  int head = 0;
  ZEROTUNE_ALWAYS_INLINE constexpr operator int() const { return head; }
};

/// What a modifier does to a block of queries by keys: nothing, something, or it hides it all.
enum class tile_effect : std::uint8_t { none, apply, masked };

/// The type that a kernel accumulates in: double for double, else float.
template <class T>
struct accumulator {
  using type = float;
};
template <>
struct accumulator<double> {
  using type = double;
};
template <class T>
using accumulator_t = typename accumulator<T>::type;

namespace detail {
template <class T>
inline constexpr bool is_element = false;
template <>
inline constexpr bool is_element<float> = true;
template <>
inline constexpr bool is_element<double> = true;
template <>
inline constexpr bool is_element<float16> = true;
template <>
inline constexpr bool is_element<bfloat16> = true;
}  // namespace detail

/// float, double, float16 or bfloat16.
template <class T>
concept element = detail::is_element<T>;

}  // namespace zerotune
