// SPDX-License-Identifier: Apache-2.0
// The parts that the SIMD back end is made of: conversions of every half, transposition, modifiers
// called with batches.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "kernel/strided.hpp"
#include "zerotune/kernel/simd/simd.hpp"
#include "zerotune/policy/alibi.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"
#include "zerotune/policy/softcap.hpp"

namespace zt = zerotune;
using kernel_test::finite_math;
using kernel_test::numbers;
using kernel_test::strided;
using zt::index_t;

namespace {

TEST(simd_conversion, every_half_widens_as_in_core) {
  using batch = zt::impl::batch<float, void>;
  const auto check = [](auto tag) {
    using T = decltype(tag);
    for (std::uint32_t first = 0; first < 0x10000u; first += batch::size) {
      T from[batch::size];
      float to[batch::size];
      for (std::size_t i = 0; i < batch::size; ++i)
        from[i] = T::from_bits(static_cast<std::uint16_t>(first + i));
      zt::impl::load<batch>(from).store_unaligned(to);
      for (std::size_t i = 0; i < batch::size; ++i) {
        const auto bits = static_cast<std::uint32_t>(first + i);
        const std::uint32_t magnitude = bits & 0x7fffu;
        const std::uint32_t infinity = std::is_same_v<T, zt::float16> ? 0x7c00u : 0x7f80u;
        const float expected = static_cast<float>(from[i]);
        if (magnitude > infinity) {  // NaN stays one; its payload is the hardware's choice
          EXPECT_GT(__builtin_bit_cast(std::uint32_t, to[i]) & 0x7fffffffu, 0x7f800000u);
        } else {
          ASSERT_EQ(__builtin_bit_cast(std::uint32_t, to[i]),
                    __builtin_bit_cast(std::uint32_t, expected))
              << bits;
        }
      }
    }
  };
  check(zt::float16{});
  check(zt::bfloat16{});
}

TEST(simd_conversion, narrows_as_in_core) {
  using batch = zt::impl::batch<float, void>;
  std::vector<std::uint32_t> patterns;
  // Every exponent with the significands around the ties, both signs, and infinities and NaN.
  for (std::uint32_t exponent = 0; exponent < 256; ++exponent)
    for (const std::uint32_t significand :
         {0x0u, 0x1u, 0xfffu, 0x1000u, 0x1001u, 0x3000u, 0x7fffu, 0x8000u, 0x8001u, 0x18000u,
          0x400000u, 0x7ff000u, 0x7ffffeu, 0x7fffffu, 0x2aaaaau, 0x555555u})
      for (const std::uint32_t sign : {0u, 0x80000000u})
        patterns.push_back(sign | exponent << 23 | significand);
  ASSERT_EQ(patterns.size() % batch::size, 0u);
  const auto check = [&](auto tag) {
    using T = decltype(tag);
    for (std::size_t first = 0; first < patterns.size(); first += batch::size) {
      float from[batch::size];
      T to[batch::size];
      std::memcpy(from, &patterns[first], sizeof from);
      zt::impl::store(batch::load_unaligned(from), to);
      for (std::size_t i = 0; i < batch::size; ++i) {
        const std::uint32_t magnitude = patterns[first + i] & 0x7fffffffu;
        // A program linked with -ffast-math flushes subnormals.
        if (finite_math && (magnitude > 0x7f800000u || magnitude < 0x00800000u)) continue;
        const T expected(from[i]);
        if (magnitude > 0x7f800000u)
          EXPECT_GT(to[i].bits & 0x7fffu, (std::is_same_v<T, zt::float16> ? 0x7c00u : 0x7f80u));
        else
          ASSERT_EQ(to[i].bits, expected.bits) << std::hex << patterns[first + i];
      }
    }
  };
  check(zt::float16{});
  check(zt::bfloat16{});
}

template <class Batch>
void check_squares() {
  using real = typename Batch::value_type;
  constexpr std::size_t size = Batch::size;
  Batch rows[size], columns[size];
  real values[size][size], out[size];
  numbers next(15);
  for (std::size_t i = 0; i < size; ++i) {
    for (real& x : values[i]) x = static_cast<real>(next());
    rows[i] = columns[i] = Batch::load_unaligned(values[i]);
  }
  zt::impl::sums_of_rows(rows).store_unaligned(out);
  for (std::size_t i = 0; i < size; ++i) {
    double sum = 0;
    for (const real x : values[i]) sum += static_cast<double>(x);
    EXPECT_NEAR(out[i], sum, 1e-5) << i;
  }
  zt::impl::transpose_square(columns);
  for (std::size_t i = 0; i < size; ++i) {
    columns[i].store_unaligned(out);
    for (std::size_t j = 0; j < size; ++j) EXPECT_EQ(out[j], values[j][i]) << i << " " << j;
  }
}
TEST(simd_squares, sums_of_rows_and_transposition) {
  check_squares<zt::impl::batch<float, void>>();
  check_squares<zt::impl::batch<double, void>>();
}

/// Written for numbers alone: vector code must not call it.
struct scalar_only {
  double log_bias(zt::row, double position) const { return position < 20 ? -position : 0.0; }
  zt::tile_effect effect(int, zt::range, zt::range) const { return zt::tile_effect::apply; }
};

template <class Acc, class Modifier>
void check_modifier_batches(const Modifier& m, bool expect_batches) {
  using batch = zt::impl::batch<Acc, void>;
  EXPECT_EQ((zt::impl::takes_batch<Modifier, batch>::value), expect_batches);
  for (const index_t begin : {index_t{0}, index_t{5}, (index_t{1} << 24) - 3})
    for (const bool ignore : {false, true}) {
      const zt::row r{0, 1, begin + 40};
      const zt::range changed{begin, begin + 67};
      strided<Acc> one(67, 1, 16), many = one;
      Acc poison_one = 0, poison_many = 0;
      const index_t hidden_one = zt::impl::modify_scores<zt::backend::scalar>(
          m, r, changed, ignore, one.data(), &poison_one);
      const index_t hidden_many = zt::impl::modify_scores<zt::backend::simd<>>(
          m, r, changed, ignore, many.data(), &poison_many);
      EXPECT_EQ(hidden_one, hidden_many);
      EXPECT_EQ(poison_one, poison_many);
      for (index_t i = 0; i < 67; ++i) {
        const double expected = one[i], error = std::is_same_v<Acc, float> ? 1e-6 : 1e-14;
        if (expected < -1e20)
          EXPECT_EQ(many[i], expected);
        else
          EXPECT_NEAR(many[i], expected, error * (1 + std::abs(expected))) << i << " " << begin;
      }
    }
}
TEST(simd_modifier, batches_do_what_single_calls_do) {
  const float slopes[] = {0.5f, 0.25f};
  const zt::alibi slope{zt::tensor_view<const float, 1>(slopes, {2})};
  const auto check = [&](auto real) {
    using acc = decltype(real);
    check_modifier_batches<acc>(slope, true);
    check_modifier_batches<acc>(zt::causal{} | slope, true);
    check_modifier_batches<acc>(zt::softcap{2.5f} | zt::initial_token{0.0f}, true);
    check_modifier_batches<acc>(zt::sliding_window{9} | zt::initial_token{3.0f}, true);
    check_modifier_batches<acc>(scalar_only{}, false);
    check_modifier_batches<acc>(slope | scalar_only{}, false);
  };
  check(1.0f);
  check(1.0);
}

/// Lengths around a vector, around what a loop takes at once, and of a row that is fetched ahead.
std::vector<index_t> row_lengths() {
  std::vector<index_t> lengths;
  for (index_t count = 1; count < 70; ++count) lengths.push_back(count);
  for (const index_t count : {127, 128, 129, 255, 257, 1000, 4099, 20001}) lengths.push_back(count);
  return lengths;
}

template <class T>
void check_sum_without_the_first(index_t count) {
  using ops = zt::row_ops<zt::backend::simd<>, T>;
  for (const index_t step : {index_t{1}, index_t{3}}) {
    strided<T> row(count, step, 21);
    double expected = 0;
    for (index_t i = 1; i < count; ++i) expected += row[i];
    const double tolerance = std::is_same_v<T, double> ? 1e-11 : 1e-4;
    ASSERT_NEAR(ops::sum(row.data(), step, count, 1), expected, tolerance) << count;
    if (finite_math) continue;
    // Whatever it holds: taking it off the whole sum again would leave NaN.
    row.data()[0] = static_cast<T>(std::nanf(""));
    ASSERT_NEAR(ops::sum(row.data(), step, count, 1), expected, tolerance) << count;
  }
}
TEST(simd_rows, sum_without_the_first_element_never_adds_it) {
  for (const index_t count : row_lengths()) {
    check_sum_without_the_first<float>(count);
    check_sum_without_the_first<double>(count);
    check_sum_without_the_first<zt::float16>(count);
    check_sum_without_the_first<zt::bfloat16>(count);
  }
}

template <class T>
void check_scale_beside_a_next_row(index_t count) {
  using ops = zt::row_ops<zt::backend::simd<>, T>;
  using acc = zt::accumulator_t<T>;
  strided<T> alone(count, 1, 22);
  const strided<T> before = alone;
  const double sum = ops::sum(alone.data(), 1, count);
  ops::scale(alone.data(), 1, count, acc(0.75));
  // A next row close by, far beyond the memory, and before it: fetched, never written.
  for (const index_t step : {count, index_t{1} << 40, -(index_t{1} << 40)}) {
    strided<T> row = before;
    ASSERT_EQ(ops::sum(row.data(), 1, count, 0, step), sum) << count;
    ops::scale(row.data(), 1, count, acc(0.75), step);
    ASSERT_EQ(std::memcmp(row.memory.data(), alone.memory.data(), row.memory.size() * sizeof(T)), 0)
        << count << " " << step;
  }
}
TEST(simd_rows, scale_alike_whatever_row_comes_next) {
  for (const index_t count : row_lengths()) {
    check_scale_beside_a_next_row<float>(count);
    check_scale_beside_a_next_row<double>(count);
    check_scale_beside_a_next_row<zt::float16>(count);
    check_scale_beside_a_next_row<zt::bfloat16>(count);
  }
}

}  // namespace
