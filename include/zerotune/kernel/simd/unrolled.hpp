// SPDX-License-Identifier: Apache-2.0
// Loops of a fixed length written out (layer: kernel): an array of batches stays in registers only
// if every index into it is a constant, at any level of optimisation that inlines.
#pragma once

#include <utility>

#include "zerotune/core/types.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// An index that is a constant of the program.
template <index_t Value>
struct constant {
  static constexpr index_t value = Value;
  ZEROTUNE_ALWAYS_INLINE constexpr operator index_t() const { return Value; }
};

template <class Body, index_t... I>
ZEROTUNE_ALWAYS_INLINE void unrolled_over(const Body& body, std::integer_sequence<index_t, I...>) {
  (body(constant<I>{}), ...);
}

/// body(constant<0>{}), ..., body(constant<Count - 1>{}). A lambda is best marked always_inline.
template <index_t Count, class Body>
ZEROTUNE_ALWAYS_INLINE void unrolled(const Body& body) {
  unrolled_over(body, std::make_integer_sequence<index_t, Count>{});
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
