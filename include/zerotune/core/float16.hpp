// SPDX-License-Identifier: Apache-2.0
// Storage types float16 (IEEE binary16) and bfloat16 with conversions that round to nearest even
// (layer: core). They hold values; arithmetic is done in float.
#pragma once

#include <cstdint>

#include "zerotune/core/config.hpp"

namespace zerotune {

/// IEEE 754 binary16 in memory. Conversion from float rounds to nearest even, overflows to
/// infinity, keeps subnormals, and maps every NaN to a quiet NaN of the same sign.
struct float16 {
  std::uint16_t bits = 0;

  ZEROTUNE_ALWAYS_INLINE constexpr float16() {}
  ZEROTUNE_ALWAYS_INLINE constexpr explicit float16(float value) : bits(round(value)) {}
  ZEROTUNE_ALWAYS_INLINE constexpr explicit operator float() const {
    // The exponent is moved in integers; a subnormal is normalised by one exact subtraction.
    const std::uint32_t sign = (std::uint32_t{bits} & 0x8000u) << 16;
    const std::uint32_t magnitude = (std::uint32_t{bits} & 0x7fffu) << 13;
    const std::uint32_t exponent = magnitude & 0x0f800000u;
    std::uint32_t value = magnitude + (112u << 23);
    value += exponent == 0x0f800000u ? 112u << 23 : 0u;
    const std::uint32_t subnormal =
        __builtin_bit_cast(std::uint32_t, __builtin_bit_cast(float, magnitude + (113u << 23)) -
                                              __builtin_bit_cast(float, 113u << 23));
    return __builtin_bit_cast(float, sign | (exponent == 0 ? subnormal : value));
  }
  ZEROTUNE_ALWAYS_INLINE static constexpr float16 from_bits(std::uint16_t bits) {
    float16 value;
    value.bits = bits;
    return value;
  }

 private:
  ZEROTUNE_ALWAYS_INLINE static constexpr std::uint16_t round(float value) {
    const std::uint32_t word = __builtin_bit_cast(std::uint32_t, value);
    const std::uint32_t sign = (word >> 16) & 0x8000u;
    const std::uint32_t magnitude = word & 0x7fffffffu;
    std::uint32_t result = 0;
    if (magnitude > 0x7f800000u) {
      result = 0x7e00u;  // NaN
    } else if (magnitude >= 0x477ff000u) {
      result = 0x7c00u;  // 65520 and above round to infinity
    } else if (magnitude >= 0x38800000u) {
      const std::uint32_t odd = (magnitude >> 13) & 1u;
      result = (magnitude - (112u << 23) + 0xfffu + odd) >> 13;
    } else if (magnitude > 0x33000000u) {  // above half of the least subnormal
      const std::uint32_t shift = 126u - (magnitude >> 23);
      const std::uint32_t significand = (magnitude & 0x7fffffu) | 0x800000u;
      const std::uint32_t kept = significand >> shift;
      const std::uint32_t rest = significand & ((1u << shift) - 1u);
      const std::uint32_t half = 1u << (shift - 1u);
      result = kept + ((rest > half || (rest == half && (kept & 1u))) ? 1u : 0u);
    }
    return static_cast<std::uint16_t>(sign | result);
  }
};

/// The upper half of a float in memory. Conversion rounds to nearest even; NaN stays a quiet NaN.
struct bfloat16 {
  std::uint16_t bits = 0;

  ZEROTUNE_ALWAYS_INLINE constexpr bfloat16() {}
  ZEROTUNE_ALWAYS_INLINE constexpr explicit bfloat16(float value) : bits(round(value)) {}
  ZEROTUNE_ALWAYS_INLINE constexpr explicit operator float() const {
    return __builtin_bit_cast(float, std::uint32_t{bits} << 16);
  }
  ZEROTUNE_ALWAYS_INLINE static constexpr bfloat16 from_bits(std::uint16_t bits) {
    bfloat16 value;
    value.bits = bits;
    return value;
  }

 private:
  ZEROTUNE_ALWAYS_INLINE static constexpr std::uint16_t round(float value) {
    const std::uint32_t word = __builtin_bit_cast(std::uint32_t, value);
    const std::uint32_t rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
    const std::uint32_t quiet = (word >> 16) | 0x40u;
    return static_cast<std::uint16_t>((word & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
  }
};

static_assert(sizeof(float16) == 2 && sizeof(bfloat16) == 2);

}  // namespace zerotune
