// SPDX-License-Identifier: Apache-2.0
// The executor concept and its serial form (layer: core). Threads come from the caller: the
// library starts none by itself.
#pragma once

#include <concepts>

#include "zerotune/core/types.hpp"

namespace zerotune {

namespace detail {
struct parallel_for_archetype {
  void operator()(index_t) const {}
};
}  // namespace detail

/// Something that calls `body(i)` once for every i in [0, count), in any order and on any threads,
/// and returns when all calls have returned. If a call throws, parallel_for throws one of the
/// exceptions after every call that had begun has ended.
template <class E>
concept executor = requires(E& e, index_t count, const detail::parallel_for_archetype& body) {
  e.parallel_for(count, body);
};

/// Calls one after the other on the caller's thread.
struct serial_executor {
  template <class Body>
  ZEROTUNE_ALWAYS_INLINE_HOST void parallel_for(index_t count, const Body& body) const {
    for (index_t i = 0; i < count; ++i) body(i);
  }
};

}  // namespace zerotune
