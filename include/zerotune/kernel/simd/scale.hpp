// SPDX-License-Identifier: Apache-2.0
// Sum of a contiguous row, and its scaling in place at the speed of the memory it lies in (layer:
// kernel). Rows begin and end anywhere: whole vectors at both ends overlap the aligned ones
// between, made of the elements as they were.
#pragma once

#include "zerotune/kernel/simd/load.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

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

 private:
  /// To nearest even in the upper half. A NaN needs no care: the product of a widened bfloat16 has
  /// a lower half of zero then, to which at most 0x8000 is added.
  ZEROTUNE_ALWAYS_INLINE static words rounded(const Batch& x) {
    const words w = __builtin_bit_cast(words, static_cast<register_of<Batch>>(x));
    return w + (0x7fffu + ((w >> 16) & 1u));
  }
};

/// x *= factor for a contiguous row. The row that begins `ahead` elements later is fetched under
/// the stores, if it is not 0: hardware begins a new row too late. (Measured: 1.1 to 1.25 times
/// faster from L3 and DRAM; summing that row in the same loop instead is no faster but from L2.)
template <class Batch, class T>
ZEROTUNE_ALWAYS_INLINE void scale_row(T* x, index_t count, typename Batch::value_type factor,
                                      index_t ahead) {
  using chunk = packed<Batch, T>;
  constexpr index_t size = chunk::size;
  const Batch f(factor);
  if (count < size) {
    for (; count >= lanes<Batch>; x += lanes<Batch>, count -= lanes<Batch>)
      store(load<Batch>(x) * f, x);
    if (count > 0) store_first(load_first<Batch>(x, count) * f, x, count);
    return;
  }
  const chunk first = chunk::from(x), last = chunk::from(x + count - size);
  // Stores that straddle cache lines halve the speed of a row whose first key is left out.
  constexpr std::uintptr_t bytes = sizeof(T) * static_cast<std::uintptr_t>(size);
  const auto beyond = reinterpret_cast<std::uintptr_t>(x) % bytes;
  index_t i = beyond == 0 ? 0 : static_cast<index_t>((bytes - beyond) / sizeof(T));
  for (; i + 4 * size <= count; i += 4 * size) {
    if (ahead != 0) {  // an address, not a pointer: there may be no such row
      const auto next =
          reinterpret_cast<std::uintptr_t>(x + i) + static_cast<std::uintptr_t>(ahead) * sizeof(T);
      for (std::uintptr_t line = 0; line < 4 * bytes; line += 64)
        __builtin_prefetch(reinterpret_cast<const void*>(next + line), 0, 3);
    }
    const chunk a = chunk::from(x + i), b = chunk::from(x + i + size);
    const chunk c = chunk::from(x + i + 2 * size), d = chunk::from(x + i + 3 * size);
    a.scale_to(x + i, f);
    b.scale_to(x + i + size, f);
    c.scale_to(x + i + 2 * size, f);
    d.scale_to(x + i + 3 * size, f);
  }
  for (; i + size <= count; i += size) chunk::from(x + i).scale_to(x + i, f);
  first.scale_to(x, f);
  last.scale_to(x + count - size, f);
}

/// The sum of a contiguous row: some 40 numbers a lane in the accumulator, their total in double.
template <class Batch, class T>
ZEROTUNE_ALWAYS_INLINE double sum_row(const T* x, index_t count) {
  using chunk = packed<Batch, T>;
  using real = typename Batch::value_type;
  constexpr index_t size = chunk::size, block = 8 * size;
  double total = 0;
  while (count > 0) {
    Batch parts[8];
    for (Batch& part : parts) part = Batch(real(0));
    for (int n = 0; n < 32 && count >= block; ++n, x += block, count -= block)
      for (index_t i = 0; i < 8; ++i) parts[i] += chunk::from(x + i * size).sum();
    if (count < block) {
      for (; count >= size; x += size, count -= size) parts[0] += chunk::from(x).sum();
      for (; count >= lanes<Batch>; x += lanes<Batch>, count -= lanes<Batch>)
        parts[1] += load<Batch>(x);
      if (count > 0) parts[2] += load_first<Batch>(x, count);
      count = 0;
    }
    total += static_cast<double>(sum_of_lanes(((parts[0] + parts[1]) + (parts[2] + parts[3])) +
                                              ((parts[4] + parts[5]) + (parts[6] + parts[7]))));
  }
  return total;
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
