// SPDX-License-Identifier: Apache-2.0
// Sum of a contiguous row, and its scaling in place at the speed of the memory it lies in (layer:
// kernel). Rows begin and end anywhere: whole vectors at both ends overlap the aligned ones
// between, made of the elements as they were.
#pragma once

#include "zerotune/kernel/simd/load.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Zero in the first lane.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE Batch but_first_lane(const Batch& x) {
  using real = typename Batch::value_type;
  using word = std::conditional_t<sizeof(real) == 4, std::uint32_t, std::uint64_t>;
  using words = vector_like<word, Batch>;
  words w = __builtin_bit_cast(words, static_cast<register_of<Batch>>(x));
  w[0] = 0;
  return Batch(__builtin_bit_cast(register_of<Batch>, w));
}

/// The elements of one vector register, as they lie in memory, and what becomes of them. In general
/// as many elements as the batch has lanes.
template <class Batch, class T>
struct packed {
  static constexpr index_t size = lanes<Batch>;
  Batch values;

  ZEROTUNE_ALWAYS_INLINE static packed from(const T* p) { return {load<Batch>(p)}; }
  ZEROTUNE_ALWAYS_INLINE void scale_to(T* p, const Batch& factor) const {
    store(values * factor, p);
  }
  ZEROTUNE_ALWAYS_INLINE Batch sum() const { return values; }
  ZEROTUNE_ALWAYS_INLINE Batch sum_but_first() const { return but_first_lane(values); }
};

/// Two bfloat16 to each lane: the even ones shifted up, the odd ones masked, never unpacked.
template <class Batch>
struct packed<Batch, bfloat16> {
  static constexpr index_t size = 2 * lanes<Batch>;
  using words = vector_like<std::uint32_t, Batch>;
  Batch even, odd;

  ZEROTUNE_ALWAYS_INLINE static packed from(const bfloat16* p) {
    words w;
    __builtin_memcpy(&w, p, sizeof w);
    return {Batch(__builtin_bit_cast(register_of<Batch>, w << 16)),
            Batch(__builtin_bit_cast(register_of<Batch>, w & 0xffff0000u))};
  }
  ZEROTUNE_ALWAYS_INLINE void scale_to(bfloat16* p, const Batch& factor) const {
    const words low = rounded(even * factor) >> 16;
    const words high = rounded(odd * factor) & 0xffff0000u;
    const words w = low | high;
    __builtin_memcpy(static_cast<void*>(p), &w, sizeof w);
  }
  ZEROTUNE_ALWAYS_INLINE Batch sum() const { return even + odd; }
  ZEROTUNE_ALWAYS_INLINE Batch sum_but_first() const { return but_first_lane(even) + odd; }

 private:
  /// To nearest even in the upper half. A NaN needs no care: the product of a widened bfloat16 has
  /// a lower half of zero then, to which at most 0x8000 is added.
  ZEROTUNE_ALWAYS_INLINE static words rounded(const Batch& x) {
    const words w = __builtin_bit_cast(words, static_cast<register_of<Batch>>(x));
    return w + (0x7fffu + ((w >> 16) & 1u));
  }
};

/// The row that comes `step` elements later, fetched while this one is summed and scaled; none if
/// the step is 0. Hardware begins a new row too late. The scaling fetches it, in step with its own
/// stores; of a row too long to stay in the nearest cache beside the one before, the sum fetches
/// the first fourth, so that no memory is idle meanwhile (docs/performance.md).
template <class T>
class next_row {
 public:
  ZEROTUNE_ALWAYS_INLINE next_row(const T* x, index_t count, index_t step)
      : begin_(reinterpret_cast<std::uintptr_t>(x) + static_cast<std::uintptr_t>(step) * sizeof(T)),
        end_(step == 0 ? 0 : count),
        lead_(end_ < long_row ? 0 : count / 4) {}

  /// While the elements [i, i + count) are summed.
  ZEROTUNE_ALWAYS_INLINE void fetch_in_sum(index_t i, index_t count) const {
    if (lead_ != 0) fetch(i / 4, count / 4);
  }
  /// While the elements [i, i + count) are scaled.
  ZEROTUNE_ALWAYS_INLINE void fetch_in_scale(index_t i, index_t count) const {
    if (lead_ + i < end_) fetch(lead_ + i, count);
  }

 private:
  static constexpr index_t long_row = (1 << 14) / static_cast<index_t>(sizeof(T));

  ZEROTUNE_ALWAYS_INLINE void fetch(index_t i, index_t count) const {
    const std::uintptr_t first = begin_ + static_cast<std::uintptr_t>(i) * sizeof(T);
    const auto bytes = static_cast<std::uintptr_t>(count) * sizeof(T);
    for (std::uintptr_t at = 0; at < bytes; at += 64)
      __builtin_prefetch(reinterpret_cast<const void*>(first + at), 0, 3);
  }

  std::uintptr_t begin_;  // an address, not a pointer: there may be no such row
  index_t end_, lead_;
};

/// x *= factor for a contiguous row, the next row `step` elements away being fetched meanwhile.
template <class Batch, class T>
ZEROTUNE_ALWAYS_INLINE void scale_row(T* x, index_t count, typename Batch::value_type factor,
                                      index_t step) {
  using chunk = packed<Batch, T>;
  constexpr index_t size = chunk::size;
  const Batch f(factor);
  if (count < size) {
    for (; count >= lanes<Batch>; x += lanes<Batch>, count -= lanes<Batch>)
      store(load<Batch>(x) * f, x);
    if (count > 0) store_first(load_first<Batch>(x, count) * f, x, count);
    return;
  }
  const next_row<T> next(x, count, step);
  const chunk first = chunk::from(x), last = chunk::from(x + count - size);
  // Stores that straddle cache lines halve the speed of a row whose first key is left out.
  constexpr std::uintptr_t bytes = sizeof(T) * static_cast<std::uintptr_t>(size);
  const auto beyond = reinterpret_cast<std::uintptr_t>(x) % bytes;
  index_t i = beyond == 0 ? 0 : static_cast<index_t>((bytes - beyond) / sizeof(T));
  for (; i + 4 * size <= count; i += 4 * size) {
    next.fetch_in_scale(i, 4 * size);
    const chunk a = chunk::from(x + i), b = chunk::from(x + i + size);
    const chunk c = chunk::from(x + i + 2 * size), d = chunk::from(x + i + 3 * size);
    a.scale_to(x + i, f);
    b.scale_to(x + i + size, f);
    c.scale_to(x + i + 2 * size, f);
    d.scale_to(x + i + 3 * size, f);
  }
  for (; i + size <= count; i += size) chunk::from(x + i).scale_to(x + i, f);
  if (beyond != 0) first.scale_to(x, f);
  if (i != count) last.scale_to(x + count - size, f);
}

/// The sum of a contiguous row: some 32 numbers a lane in the accumulator, their total in double.
/// `first` is 0, or 1 to leave out the first element; vectors begin at x all the same, for there
/// rows tend to be aligned. The next row is fetched as in scale_row.
template <class Batch, class T>
ZEROTUNE_ALWAYS_INLINE double sum_row(const T* x, index_t count, index_t first = 0,
                                      index_t step = 0) {
  using chunk = packed<Batch, T>;
  using real = typename Batch::value_type;
  constexpr index_t size = chunk::size, block = 4 * size;
  const Batch zero(real(0));
  if (count < size) {
    x += first, count -= first;
    Batch sum = zero;
    for (; count >= lanes<Batch>; x += lanes<Batch>, count -= lanes<Batch>) sum += load<Batch>(x);
    if (count > 0) sum += load_first<Batch>(x, count);
    return static_cast<double>(sum_of_lanes(sum));
  }
  const next_row<T> next(x, count, step);
  double total = 0;
  const chunk begin = chunk::from(x);
  Batch a = first != 0 ? begin.sum_but_first() : begin.sum(), b = zero, c = zero, d = zero;
  index_t i = size;
  while (i + block <= count) {
    const index_t some = i + 32 * block < count ? i + 32 * block : count;
    for (; i + block <= some; i += block) {
      next.fetch_in_sum(i, block);
      a += chunk::from(x + i).sum();
      b += chunk::from(x + i + size).sum();
      c += chunk::from(x + i + 2 * size).sum();
      d += chunk::from(x + i + 3 * size).sum();
    }
    if (i + block > count) break;
    total += static_cast<double>(sum_of_lanes((a + b) + (c + d)));
    a = b = c = d = zero;
  }
  for (; i + size <= count; i += size) b += chunk::from(x + i).sum();
  for (; i + lanes<Batch> <= count; i += lanes<Batch>) c += load<Batch>(x + i);
  if (i < count) d += load_first<Batch>(x + i, count - i);
  return total + static_cast<double>(sum_of_lanes((a + b) + (c + d)));
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
