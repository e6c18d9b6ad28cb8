// SPDX-License-Identifier: Apache-2.0
// What the register tiles multiply (layer: kernel): numbers of the accumulator,
// or pairs of bfloat16 in 32-bit words, two products and two sums at a time.
// Both have one interface.
#pragma once

#include "zerotune/kernel/simd/pack_pairs.hpp"
#include "zerotune/kernel/simd/panel.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// One number an element.
template <class Batch>
struct number_operand {
  using batch = Batch;
  using element = typename Batch::value_type;
  Batch values;

  ZEROTUNE_ALWAYS_INLINE static number_operand load(const element* from) {
    return {Batch::load_aligned(from)};
  }
  ZEROTUNE_ALWAYS_INLINE static number_operand splat(element x) { return {Batch(x)}; }
  /// sum + this * other
  ZEROTUNE_ALWAYS_INLINE Batch multiply(const number_operand& other, const Batch& sum) const {
    return multiply_add(other.values, values, sum);
  }
  /// The same where this is not zero: 0 * NaN is as if other had not been read.
  ZEROTUNE_ALWAYS_INLINE Batch multiply_guarded(const number_operand& other,
                                                const Batch& sum) const {
    return xsimd::select(values == Batch(element(0)), sum, multiply(other, sum));
  }
};

/// A pair of bfloat16 an element, by the instruction of AVX512-BF16 or by two
/// multiply-adds.
template <class Batch>
struct pair_operand {
  using batch = Batch;
  using element = std::uint32_t;
  word_vector<Batch> words;

  ZEROTUNE_ALWAYS_INLINE static pair_operand load(const element* from) {
    pair_operand x;
    __builtin_memcpy(&x.words, from, sizeof x.words);
    return x;
  }
  ZEROTUNE_ALWAYS_INLINE static pair_operand splat(element x) {
    pair_operand all;
    all.words = word_vector<Batch>{} + x;
    return all;
  }
  /// sum + this.low * other.low + this.high * other.high
  ZEROTUNE_ALWAYS_INLINE Batch multiply(const pair_operand& other, const Batch& sum) const {
#if defined(__AVX512BF16__)
    if constexpr (is_512_bits<Batch, float>)
      return Batch(_mm512_dpbf16_ps(sum, __builtin_bit_cast(__m512bh, words),
                                    __builtin_bit_cast(__m512bh, other.words)));
    else
#endif
      return multiply_add(high(), other.high(), multiply_add(low(), other.low(), sum));
  }
  ZEROTUNE_ALWAYS_INLINE Batch multiply_guarded(const pair_operand& other, const Batch& sum) const {
    const Batch zero(0.0f);
    const Batch first = xsimd::select(low() == zero, sum, multiply_add(low(), other.low(), sum));
    return xsimd::select(high() == zero, first, multiply_add(high(), other.high(), first));
  }

 private:
  ZEROTUNE_ALWAYS_INLINE Batch low() const { return from_words<Batch>(words << 16); }
  ZEROTUNE_ALWAYS_INLINE Batch high() const { return from_words<Batch>(words & 0xffff0000u); }
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
