// SPDX-License-Identifier: Apache-2.0
// Fetching what a task needs next, a few cache lines at a time between its products (layer:
// kernel): the third-level cache is too slow to wait for, and hardware starts too late on rows that
// are short or far apart.
#pragma once

#include <cstdint>

#include "zerotune/core/types.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Asks for the cache line `bytes` behind an address, to be written soon; there may be nothing.
ZEROTUNE_ALWAYS_INLINE void prefetch_for_writing(const void* from, index_t bytes) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(from) +
                                                   static_cast<std::uintptr_t>(bytes)),
                     1, 3);
}

/// Rows of memory that are to be fetched, some lines at each call.
class prefetch_queue {
 public:
  static constexpr index_t line = 64;

  void clear() { count_ = 0, lines_ = 0; }
  index_t lines() const { return lines_; }

  /// `rows` rows of `columns` elements; only contiguous rows are worth it.
  template <class T>
  ZEROTUNE_ALWAYS_INLINE void add(const T* first, index_t row_step, index_t stride, index_t rows,
                                  index_t columns) {
    if (stride != 1 || rows <= 0 || count_ == most) return;
    constexpr auto size = static_cast<index_t>(sizeof(T));
    const index_t per_row = (columns * size + line - 1) / line;
    regions_[count_++] = {reinterpret_cast<std::uintptr_t>(first), row_step * size, per_row, rows,
                          0};
    lines_ += per_row * rows;
  }

  /// Fetches the next `count` lines into the second-level cache.
  ZEROTUNE_ALWAYS_INLINE void fetch(index_t count) {
    while (count > 0 && count_ > 0) {
      region& r = regions_[count_ - 1];
      for (; count > 0 && r.rows > 0; --count, --lines_) {
        // An address, not a pointer: a prefetch may go anywhere.
        __builtin_prefetch(
            reinterpret_cast<const void*>(r.row + static_cast<std::uintptr_t>(r.done * line)), 0,
            2);
        if (++r.done == r.per_row) {
          r.done = 0, --r.rows;
          r.row += static_cast<std::uintptr_t>(r.step);
        }
      }
      if (r.rows == 0) --count_;
    }
  }

 private:
  struct region {
    std::uintptr_t row;
    index_t step, per_row, rows, done;
  };
  static constexpr index_t most = 6;
  region regions_[most];
  index_t count_ = 0, lines_ = 0;
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
