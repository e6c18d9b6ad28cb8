// SPDX-License-Identifier: Apache-2.0
// Conversions of the 16-bit types, all bit patterns, against the definition of the formats.
#include "zerotune/core/float16.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace {

using zerotune::bfloat16;
using zerotune::float16;

/// Exponent bits, significand bits and bias of a 16-bit format.
struct format {
  int exponent_bits, significand_bits, bias;
};
constexpr format half_format{5, 10, 15}, brain_format{8, 7, 127};

template <class Half>
constexpr format format_of = half_format;
template <>
constexpr format format_of<bfloat16> = brain_format;

/// The value of a bit pattern by the definition: (-1)^s 2^(e - bias) 1.f, or 2^(1 - bias) 0.f.
double value_of(std::uint16_t bits, format f) {
  const int significand = bits & ((1 << f.significand_bits) - 1);
  const int exponent = (bits >> f.significand_bits) & ((1 << f.exponent_bits) - 1);
  const double sign = bits & 0x8000 ? -1.0 : 1.0;
  if (exponent == (1 << f.exponent_bits) - 1)
    return significand ? std::numeric_limits<double>::quiet_NaN()
                       : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(significand, 1 - f.bias - f.significand_bits);
  return sign * std::ldexp(significand + (1 << f.significand_bits),
                           exponent - f.bias - f.significand_bits);
}

/// Nearest pattern, ties to even, found among the sorted values of all positive patterns. The value
/// after the greatest finite one counts as 2^(emax + 1): half way and beyond is infinity.
class rounding_table {
 public:
  explicit rounding_table(format f) {
    for (std::uint32_t bits = 0; bits < 0x8000; ++bits) {
      const double value = value_of(static_cast<std::uint16_t>(bits), f);
      if (!std::isfinite(value)) break;
      values_.push_back(value);
    }
    values_.push_back(std::ldexp(1.0, f.bias + 1));
  }
  std::uint16_t round(float value) const {
    const double magnitude = std::abs(static_cast<double>(value));
    const std::uint32_t sign = std::signbit(value) ? 0x8000u : 0u;
    if (magnitude >= values_.back()) return bits(sign, values_.size() - 1);
    const auto above = std::upper_bound(values_.begin(), values_.end(), magnitude);
    const auto high = static_cast<std::size_t>(above - values_.begin()), low = high - 1;
    const double down = magnitude - values_[low], up = values_[high] - magnitude;  // both exact
    if (down < up || (down == up && low % 2 == 0)) return bits(sign, low);
    return bits(sign, high);
  }

 private:
  static std::uint16_t bits(std::uint32_t sign, std::size_t index) {
    return static_cast<std::uint16_t>(sign | static_cast<std::uint32_t>(index));
  }
  std::vector<double> values_;
};

template <class Half>
class storage_type : public ::testing::Test {};
using storage_types = ::testing::Types<float16, bfloat16>;
TYPED_TEST_SUITE(storage_type, storage_types);

TYPED_TEST(storage_type, every_pattern_has_the_value_of_its_definition) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto pattern = static_cast<std::uint16_t>(bits);
    const double expected = value_of(pattern, format_of<TypeParam>);
    const auto actual = static_cast<float>(TypeParam::from_bits(pattern));
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(actual)) << bits;
    } else {
      ASSERT_EQ(static_cast<double>(actual), expected) << bits;
    }
    ASSERT_EQ(std::signbit(actual), (bits & 0x8000) != 0) << bits;
  }
}

TYPED_TEST(storage_type, every_number_survives_the_way_to_float_and_back) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto number = TypeParam::from_bits(static_cast<std::uint16_t>(bits));
    const TypeParam again(static_cast<float>(number));
    if (std::isnan(static_cast<float>(number))) {
      ASSERT_TRUE(std::isnan(static_cast<float>(again))) << bits;
      ASSERT_EQ(again.bits & 0x8000, number.bits & 0x8000) << bits;
    } else {
      ASSERT_EQ(again.bits, number.bits) << bits;
    }
  }
}

// Every tie, both neighbours of every tie and of every value: where rounding code goes wrong.
TYPED_TEST(storage_type, rounds_to_nearest_even_around_every_value_and_every_tie) {
  const rounding_table table(format_of<TypeParam>);
  const auto check = [&](float value) {
    ASSERT_EQ(TypeParam(value).bits, table.round(value)) << std::hexfloat << value;
    ASSERT_EQ(TypeParam(-value).bits, table.round(-value)) << std::hexfloat << -value;
  };
  const float infinity = std::numeric_limits<float>::infinity();
  for (std::uint32_t bits = 0; bits < 0x7fff; ++bits) {
    const double low = value_of(static_cast<std::uint16_t>(bits), format_of<TypeParam>);
    double high = value_of(static_cast<std::uint16_t>(bits + 1), format_of<TypeParam>);
    if (!std::isfinite(low)) break;
    if (std::isinf(high)) high = std::ldexp(1.0, format_of<TypeParam>.bias + 1);
    const double tie = low + (high - low) / 2;
    for (const double value : {low, tie}) {
      const auto exact = static_cast<float>(value);
      check(exact);
      check(std::nextafter(exact, infinity));
      if (exact > 0) check(std::nextafter(exact, 0.0f));
    }
  }
}

TYPED_TEST(storage_type, rounds_a_sweep_of_all_floats) {
  const rounding_table table(format_of<TypeParam>);
  for (std::uint64_t word = 0; word < 0x100000000u; word += 9973) {  // a prime step
    const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(word));
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(static_cast<float>(TypeParam(value)))) << word;
    } else {
      ASSERT_EQ(TypeParam(value).bits, table.round(value)) << std::hexfloat << value;
    }
  }
}

// A signalling NaN whose payload lies in the dropped bits must not become an infinity.
TYPED_TEST(storage_type, nan_stays_a_quiet_nan_of_the_same_sign) {
  const std::uint32_t quiet = 1u << (format_of<TypeParam>.significand_bits - 1);
  for (const std::uint32_t word : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0x7f801fffu, 0x7fbfffffu})
    for (const std::uint32_t sign : {0u, 0x80000000u}) {
      const TypeParam narrow(std::bit_cast<float>(word | sign));
      EXPECT_TRUE(std::isnan(static_cast<float>(narrow))) << std::hex << word;
      EXPECT_EQ(narrow.bits >> 15, sign >> 31);
      EXPECT_NE(narrow.bits & quiet, 0u) << std::hex << word;
    }
}

TYPED_TEST(storage_type, overflow_is_infinity_and_zero_keeps_its_sign) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(static_cast<float>(TypeParam(infinity)), infinity);
  EXPECT_EQ(static_cast<float>(TypeParam(-infinity)), -infinity);
  EXPECT_EQ(static_cast<float>(TypeParam(std::numeric_limits<float>::max())), infinity);
  EXPECT_EQ(TypeParam(0.0f).bits, 0u);
  EXPECT_EQ(TypeParam(-0.0f).bits, 0x8000u);
  EXPECT_EQ(TypeParam(std::numeric_limits<float>::denorm_min()).bits, 0u);
}

TEST(float16_limits, are_those_of_binary16) {
  EXPECT_EQ(float16(65504.0f).bits, 0x7bffu);
  EXPECT_EQ(float16(65519.996f).bits, 0x7bffu);
  EXPECT_EQ(float16(65520.0f).bits, 0x7c00u);
  EXPECT_EQ(float16(0x1p-24f).bits, 1u);  // least subnormal
  EXPECT_EQ(float16(0x1p-25f).bits, 0u);  // half of it: tie to even
  EXPECT_EQ(float16(0x1.000002p-25f).bits, 1u);
  EXPECT_EQ(float16(0x1.8p-24f).bits, 2u);        // tie between 1 and 2
  EXPECT_EQ(float16(0x1.ffep-15f).bits, 0x400u);  // tie: subnormal to least normal
}

// Weights and biases are often made at compile time.
TEST(storage_types_are, usable_in_constant_expressions) {
  static_assert(float16(1.0f).bits == 0x3c00);
  static_assert(static_cast<float>(float16::from_bits(0x3555)) == 0x1.554p-2f);
  static_assert(static_cast<float>(float16::from_bits(0x0001)) == 0x1p-24f);
  static_assert(bfloat16(1.0f).bits == 0x3f80);
  static_assert(static_cast<float>(bfloat16::from_bits(0xc040)) == -3.0f);
  static_assert(std::is_trivially_copyable_v<float16> && std::is_trivially_copyable_v<bfloat16>);
  static_assert(sizeof(float16) == 2 && alignof(float16) == 2);
  static_assert(!std::is_convertible_v<float, float16> && !std::is_convertible_v<float16, float>,
                "conversions lose precision or time: they are explicit");
  SUCCEED();
}

}  // namespace
