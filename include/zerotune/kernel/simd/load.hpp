// SPDX-License-Identifier: Apache-2.0
// Elements of every storage type as batches of the accumulator, and back (layer: kernel).
// Contiguous half types are converted without branches; strided ones are gathered by scalar code.
#pragma once

#include "zerotune/kernel/simd/xsimd_compat.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Hardware conversion of float16 for a batch of floats: 4, 8 or 16 lanes.
template <class Batch>
inline constexpr bool has_float16_instructions =
#if defined(__AVX512F__) && defined(__F16C__)
    Batch::size == 4 || Batch::size == 8 || Batch::size == 16;
#elif defined(__F16C__)
    Batch::size == 4 || Batch::size == 8;
#else
    false;
#endif

#if defined(__F16C__)
template <class Batch>
ZEROTUNE_ALWAYS_INLINE Batch load_float16(const float16* from) {
  if constexpr (Batch::size == 4)
    return Batch(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
  else if constexpr (Batch::size == 8)
    return Batch(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#if defined(__AVX512F__)
  else
    return Batch(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#endif
}
template <class Batch>
ZEROTUNE_ALWAYS_INLINE void store_float16(const Batch& x, float16* to) {
  constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  if constexpr (Batch::size == 4)
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_cvtps_ph(x, nearest));
  else if constexpr (Batch::size == 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(x, nearest));
#if defined(__AVX512F__)
  else
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(x, nearest));
#endif
}
#endif

/// float16 to float in integers: the exponent is moved; a subnormal is normalised by one exact
/// subtraction (as in core/float16.hpp, a vector at a time).
template <class Batch>
ZEROTUNE_ALWAYS_INLINE Batch widen_float16(const float16* from) {
  using bits16 = vector_like<std::uint16_t, Batch>;
  using bits32 = vector_like<std::uint32_t, Batch>;
  using reals = vector_like<float, Batch>;
  bits16 raw;
  __builtin_memcpy(&raw, from, sizeof raw);
  const bits32 word = __builtin_convertvector(raw, bits32);
  const bits32 sign = (word & 0x8000u) << 16;
  const bits32 magnitude = (word & 0x7fffu) << 13;
  const bits32 exponent = magnitude & 0x0f800000u;
  const bits32 special = (bits32)(exponent == 0x0f800000u);
  const bits32 tiny = (bits32)(exponent == 0u);
  const bits32 normal = magnitude + (112u << 23) + (special & (112u << 23));
  const bits32 subnormal =
      (bits32)((reals)(magnitude + (113u << 23)) - __builtin_bit_cast(float, 113u << 23));
  const bits32 value = sign | (tiny & subnormal) | (~tiny & normal);
  return Batch(__builtin_bit_cast(register_of<Batch>, value));
}

/// float to float16, rounding to nearest even: the adder rounds where the result is subnormal.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE void narrow_float16(const Batch& x, float16* to) {
  using bits16 = vector_like<std::uint16_t, Batch>;
  using bits32 = vector_like<std::uint32_t, Batch>;
  using reals = vector_like<float, Batch>;
  const bits32 word = __builtin_bit_cast(bits32, static_cast<register_of<Batch>>(x));
  const bits32 sign = (word >> 16) & 0x8000u;
  const bits32 magnitude = word & 0x7fffffffu;
  const bits32 normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const bits32 subnormal = (bits32)((reals)magnitude + 0.5f) - 0x3f000000u;
  const bits32 is_tiny = (bits32)(magnitude < 0x38800000u);
  const bits32 is_huge = (bits32)(magnitude >= 0x477ff000u);
  const bits32 is_nan = (bits32)(magnitude > 0x7f800000u);
  bits32 value = (is_tiny & subnormal) | (~is_tiny & normal);
  value = (is_huge & 0x7c00u) | (~is_huge & value) | (is_nan & 0x0200u);
  const bits16 narrow = __builtin_convertvector(value | sign, bits16);
  __builtin_memcpy(static_cast<void*>(to), &narrow, sizeof narrow);
}

template <class Batch>
ZEROTUNE_ALWAYS_INLINE Batch widen_bfloat16(const bfloat16* from) {
  using bits16 = vector_like<std::uint16_t, Batch>;
  using bits32 = vector_like<std::uint32_t, Batch>;
  bits16 raw;
  __builtin_memcpy(&raw, from, sizeof raw);
  const bits32 word = __builtin_convertvector(raw, bits32) << 16;
  return Batch(__builtin_bit_cast(register_of<Batch>, word));
}

/// float to bfloat16 in the lower half of a word, rounding to nearest even in integers: the
/// instruction of AVX512-BF16 takes subnormals for zero.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE void bfloat16_words(const Batch& x,
                                           vector_like<std::uint32_t, Batch>& narrow) {
  using bits32 = vector_like<std::uint32_t, Batch>;
  const bits32 word = __builtin_bit_cast(bits32, static_cast<register_of<Batch>>(x));
  const bits32 rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
  const bits32 quiet = (word >> 16) | 0x40u;
  const bits32 is_nan = (bits32)((word & 0x7fffffffu) > 0x7f800000u);
  narrow = (is_nan & quiet) | (~is_nan & rounded);
}
template <class Batch>
ZEROTUNE_ALWAYS_INLINE void narrow_bfloat16(const Batch& x, bfloat16* to) {
  using bits16 = vector_like<std::uint16_t, Batch>;
  vector_like<std::uint32_t, Batch> words;
  bfloat16_words(x, words);
  const bits16 narrow = __builtin_convertvector(words, bits16);
  __builtin_memcpy(static_cast<void*>(to), &narrow, sizeof narrow);
}

/// A batch from contiguous elements.
template <class Batch, class T>
ZEROTUNE_ALWAYS_INLINE Batch load(const T* from) {
  using real = typename Batch::value_type;
  if constexpr (std::is_same_v<T, real>) {
    return Batch::load_unaligned(from);
  } else if constexpr (std::is_same_v<T, bfloat16> && std::is_same_v<real, float>) {
    return widen_bfloat16<Batch>(from);
  } else if constexpr (std::is_same_v<T, float16> && std::is_same_v<real, float>) {
#if defined(__F16C__)
    if constexpr (has_float16_instructions<Batch>)
      return load_float16<Batch>(from);
    else
#endif
      return widen_float16<Batch>(from);
  } else {  // a query of one accumulator against keys of another
    real values[Batch::size];
    for (std::size_t i = 0; i < Batch::size; ++i)
      values[i] = static_cast<real>(static_cast<accumulator_t<T>>(from[i]));
    return Batch::load_unaligned(values);
  }
}

/// Contiguous elements from a batch, rounded to nearest even.
template <class Batch, class T>
ZEROTUNE_ALWAYS_INLINE void store(const Batch& x, T* to) {
  using real = typename Batch::value_type;
  if constexpr (std::is_same_v<T, real>) {
    x.store_unaligned(to);
  } else if constexpr (std::is_same_v<T, bfloat16> && std::is_same_v<real, float>) {
    narrow_bfloat16(x, to);
  } else {
    static_assert(std::is_same_v<T, float16> && std::is_same_v<real, float>);
#if defined(__F16C__)
    if constexpr (has_float16_instructions<Batch>)
      store_float16(x, to);
    else
#endif
      narrow_float16(x, to);
  }
}

/// The first `count` lanes from contiguous elements, zero in the others; count < lanes.
template <class Batch, class T>
ZEROTUNE_ALWAYS_INLINE Batch load_first(const T* from, index_t count) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  if constexpr (sizeof(T) == 2 && is_512_bits<Batch, float>) {
    const __m256i raw = _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1u), from);
    T values[Batch::size];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(values), raw);
    return load<Batch>(values);
  }
#endif
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float> && is_512_bits<Batch, float>)
    return Batch(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1u), from));
  else if constexpr (std::is_same_v<T, double> && is_512_bits<Batch, double>)
    return Batch(_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << count) - 1u), from));
  else
#endif
  {
    T values[Batch::size] = {};
    for (index_t i = 0; i < count; ++i) values[i] = from[i];
    return load<Batch>(values);
  }
}

/// The first `count` lanes to contiguous elements; nothing else is written. count < lanes.
template <class Batch, class T>
ZEROTUNE_ALWAYS_INLINE void store_first(const Batch& x, T* to, index_t count) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  if constexpr (sizeof(T) == 2 && is_512_bits<Batch, float>) {
    T values[Batch::size];
    store(x, values);
    _mm256_mask_storeu_epi16(to, static_cast<__mmask16>((1u << count) - 1u),
                             _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
    return;
  }
#endif
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float> && is_512_bits<Batch, float>) {
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1u), x);
  } else if constexpr (std::is_same_v<T, double> && is_512_bits<Batch, double>) {
    _mm512_mask_storeu_pd(to, static_cast<__mmask8>((1u << count) - 1u), x);
  } else
#endif
  {
    T values[Batch::size];
    store(x, values);
    for (index_t i = 0; i < count; ++i) to[i] = values[i];
  }
}

/// The first `count` lanes from strided elements, zero in the others; count <= lanes.
template <class Batch, class T>
ZEROTUNE_ALWAYS_INLINE Batch load_strided(const T* from, index_t stride, index_t count) {
  using real = typename Batch::value_type;
  real values[Batch::size] = {};
  for (index_t i = 0; i < count; ++i)
    values[i] = static_cast<real>(static_cast<accumulator_t<T>>(from[i * stride]));
  return Batch::load_unaligned(values);
}

/// The first `count` lanes from elements of any stride, zero in the others; count <= lanes.
template <class Batch, class T>
ZEROTUNE_ALWAYS_INLINE Batch load_any(const T* from, index_t stride, index_t count) {
  if (stride != 1) return load_strided<Batch>(from, stride, count);
  return count == lanes<Batch> ? load<Batch>(from) : load_first<Batch>(from, count);
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
