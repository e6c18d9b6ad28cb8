// SPDX-License-Identifier: Apache-2.0
// Which groups of a block's keys the vectors of a panel have to do with (layer: kernel).
#pragma once

#include "zerotune/kernel/simd/panel.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// The groups of each vector, of the keys `part` of a block, and up to where its weights are used.
template <class Shape>
void find_groups(const panel<Shape>& p, index_t origin, range part,
                 key_groups (&groups)[Shape::vectors], value_range<Shape>& values) noexcept {
  index_t end = values.begin;
  for (index_t n = 0; n < p.used; ++n) {
    const range seen = intersect(p.vector_all[n], part);
    if (!seen.empty())
      groups[n] = {round_down(seen.begin - origin, Shape::group),
                   round_up(seen.end - origin, Shape::group)};
    const index_t last = part.end - origin;
    end = groups[n].end > end ? groups[n].end < last ? groups[n].end : last : end;
    values.ends[n] = end;
  }
}

template <class Shape>
key_groups hull_of(const panel<Shape>& p, const key_groups (&groups)[Shape::vectors]) noexcept {
  range all{};
  for (index_t n = 0; n < p.used; ++n) all = hull(all, {groups[n].begin, groups[n].end});
  return {all.begin, all.end};
}

/// What of each vector's groups lies within `part`.
template <class Shape>
void clip(const panel<Shape>& p, const key_groups (&groups)[Shape::vectors], key_groups part,
          key_groups (&clipped)[Shape::vectors]) noexcept {
  for (index_t n = 0; n < p.used; ++n) {
    const range some = intersect({groups[n].begin, groups[n].end}, {part.begin, part.end});
    clipped[n] = some.empty() ? key_groups{} : key_groups{some.begin, some.end};
  }
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
