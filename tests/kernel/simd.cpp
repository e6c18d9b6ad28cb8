// SPDX-License-Identifier: Apache-2.0
// The SIMD back end's own operations against loops in double: every tail length, every stride,
// every element type. (What the forms make of them: tests/apply.)
#include "zerotune/kernel/simd/simd.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "kernel/strided.hpp"

namespace zt = zerotune;
using kernel_test::finite_math;
using kernel_test::numbers;
using kernel_test::strided;
using kernel_test::value;
using zt::index_t;

namespace {

template <class T>
class simd : public ::testing::Test {
 protected:
  using type = T;
  using ops = zt::row_ops<zt::backend::simd<>, T>;
  using accumulator = zt::accumulator_t<T>;
  static constexpr index_t longest = 4 * ops::lanes + 1;
  /// Rounding of the accumulator over a few hundred terms of size 1.
  static constexpr double sum_error = std::is_same_v<T, double> ? 1e-13 : 1e-5;
  /// Half a unit in the last place of a result near 1 in the storage type, and a little.
  static constexpr double rounding = std::is_same_v<T, double>        ? 1e-15
                                     : std::is_same_v<T, float>       ? 2e-7
                                     : std::is_same_v<T, zt::float16> ? 6e-4
                                                                      : 5e-3;
};
using element_types = ::testing::Types<float, double, zt::float16, zt::bfloat16>;
struct type_names {
  template <class T>
  static std::string GetName(int) {
    if (std::is_same_v<T, float>) return "float";
    if (std::is_same_v<T, double>) return "double";
    return std::is_same_v<T, zt::float16> ? "float16" : "bfloat16";
  }
};
TYPED_TEST_SUITE(simd, element_types, type_names);

constexpr index_t input_strides[] = {1, 2, -1, -3, 0};
constexpr index_t output_strides[] = {1, 2, -1, -3};

TYPED_TEST(simd, sums_rows) {
  for (const index_t stride : input_strides)
    for (index_t count = 0; count <= this->longest; ++count) {
      strided<TypeParam> x(count + 1, stride, 1);
      double expected = 0;
      for (index_t i = 0; i < count; ++i) expected += x[i];
      EXPECT_NEAR(TestFixture::ops::sum(x.data(), stride, count), expected, this->sum_error)
          << count << " " << stride;
    }
  strided<TypeParam> x(10007, 1, 2);
  double expected = 0;
  for (index_t i = 0; i < 10007; ++i) expected += x[i];
  EXPECT_NEAR(TestFixture::ops::sum(x.data(), 1, 10007), expected, 10 * this->sum_error);
}

TYPED_TEST(simd, scales_rows_at_every_alignment_and_nothing_else) {
  using acc = typename TestFixture::accumulator;
  for (const index_t stride : output_strides)
    for (index_t count = 1; count <= this->longest; ++count)
      for (index_t offset = 0; offset < (stride == 1 ? 3 : 1); ++offset) {
        strided<TypeParam> x(count + offset, stride, 3), before = x;
        TestFixture::ops::scale(x.data() + offset * stride, stride, count, acc(0.75));
        for (std::size_t i = 0; i < x.memory.size(); ++i) {
          const index_t at = static_cast<index_t>(&x.memory[i] - x.data()) - offset * stride;
          const bool scaled = at % stride == 0 && at / stride >= 0 && at / stride < count;
          const TypeParam expected =
              scaled ? static_cast<TypeParam>(static_cast<acc>(before.memory[i]) * acc(0.75))
                     : before.memory[i];
          ASSERT_EQ(std::memcmp(&x.memory[i], &expected, sizeof expected), 0)
              << count << " " << stride << " " << i;
        }
      }
}

TYPED_TEST(simd, dots_of_mixed_strides) {
  for (const index_t q_stride : input_strides)
    for (const index_t k_stride : input_strides)
      for (index_t count = 1; count <= this->longest; ++count) {
        strided<TypeParam> q(count, q_stride, 4), k(count, k_stride, 5);
        double expected = 0;
        for (index_t i = 0; i < count; ++i) expected += q[i] * k[i];
        EXPECT_NEAR(TestFixture::ops::dot(q.data(), q_stride, k.data(), k_stride, count), expected,
                    this->sum_error)
            << count << " " << q_stride << " " << k_stride;
      }
}

TYPED_TEST(simd, queries_of_another_type) {
  if constexpr (!std::is_same_v<TypeParam, double>) {
    strided<float> q(37, 1, 4);
    strided<TypeParam> k(37, 1, 5);
    double expected = 0;
    for (index_t i = 0; i < 37; ++i) expected += q[i] * k[i];
    EXPECT_NEAR(TestFixture::ops::dot(q.data(), 1, k.data(), 1, 37), expected, this->sum_error);
  }
}

TYPED_TEST(simd, dots_of_blocks) {
  using acc = typename TestFixture::accumulator;
  for (const index_t stride : {1, 2})
    for (const index_t count : {index_t{1}, TestFixture::ops::lanes, index_t{37}})
      for (index_t keys = 1; keys <= 2 * TestFixture::ops::lanes + 1; ++keys) {
        const index_t row = count * stride + 5;
        strided<TypeParam> q(count, 1, 6), k(keys * row, 1, 7);
        std::vector<acc> scores(static_cast<std::size_t>(keys));
        TestFixture::ops::dots(q.data(), 1, k.data(), row, stride, count, acc(0.5), scores.data(),
                               keys);
        for (index_t j = 0; j < keys; ++j) {
          double expected = 0;
          for (index_t i = 0; i < count; ++i) expected += 0.5 * q[i] * k[j * row + i * stride];
          EXPECT_NEAR(scores[static_cast<std::size_t>(j)], expected, this->sum_error)
              << j << " " << keys;
        }
      }
}

TYPED_TEST(simd, accumulates_values) {
  using acc = typename TestFixture::accumulator;
  for (const index_t stride : {1, -2})
    for (index_t columns = 1; columns <= 5 * TestFixture::ops::lanes + 1; ++columns) {
      const index_t keys = 5, row = columns * 2 + 1;
      strided<TypeParam> v(keys * row, 1, 8);
      strided<acc> weights(keys, 1, 9), sums(columns, 1, 10), axpy = sums, before = sums;
      const TypeParam* const first = v.data() + (stride < 0 ? row - 1 : 0);
      TestFixture::ops::accumulate(weights.data(), keys, first, row, stride, sums.data(), columns);
      for (index_t j = 0; j < keys; ++j)
        TestFixture::ops::axpy(weights.data()[j], first + j * row, stride, axpy.data(), columns);
      for (index_t c = 0; c < columns; ++c) {
        double expected = before[c];
        for (index_t j = 0; j < keys; ++j)
          expected += weights[j] * value(first[j * row + c * stride]);
        EXPECT_NEAR(sums[c], expected, this->sum_error);
        EXPECT_NEAR(axpy[c], expected, this->sum_error);
      }
      EXPECT_EQ(sums.memory.back(), before.memory.back());
    }
}

TYPED_TEST(simd, stores_rows_and_nothing_else) {
  using acc = typename TestFixture::accumulator;
  for (const index_t stride : output_strides)
    for (index_t count = 1; count <= this->longest; ++count) {
      strided<acc> x(count, 1, 11);
      strided<TypeParam> y(count, stride, 12), before = y;
      TestFixture::ops::store(x.data(), acc(0.5), y.data(), stride, count);
      for (index_t i = 0; i < count; ++i) {
        EXPECT_NEAR(y[i], 0.5 * x[i], this->rounding);
        y.data()[i * stride] = before.data()[i * stride];
      }
      EXPECT_EQ(
          std::memcmp(y.memory.data(), before.memory.data(), y.memory.size() * sizeof(TypeParam)),
          0);
    }
}

TYPED_TEST(simd, exponentials_and_their_sum) {
  using acc = typename TestFixture::accumulator;
  const double unit = std::numeric_limits<acc>::epsilon();
  for (index_t count = 1; count <= this->longest; ++count) {
    strided<acc> x(count, 1, 13), before = x;
    for (acc& v : before.memory) v = acc(40) * (v - acc(1));
    x = before;
    const double sum = TestFixture::ops::exp_and_sum(x.data(), acc(1), count);
    double total = 0;
    for (index_t i = 0; i < count; ++i) {
      const double expected = std::exp(before[i] - 1.0);
      // x - 1 is itself rounded: |x| half units of it, times the slope of exp.
      EXPECT_NEAR(x[i], expected, (2.0 + std::abs(before[i])) * unit * expected);
      total += expected;
    }
    EXPECT_NEAR(sum, total, 100 * unit * total);
    EXPECT_EQ(std::memcmp(&x.memory[static_cast<std::size_t>(count + 3)],
                          &before.memory[static_cast<std::size_t>(count + 3)], 3 * sizeof(acc)),
              0);
  }
}

TYPED_TEST(simd, far_below_the_maximum_the_exponential_is_exactly_zero) {
  using acc = typename TestFixture::accumulator;
  std::vector<acc> x(40, acc(0));
  x[3] = static_cast<acc>(zt::zero_gamma_bias);
  x[4] = zt::impl::mask_bias<acc>();
  x[5] = std::numeric_limits<acc>::lowest();
  x[6] = acc(-1e4);
  const acc sum = TestFixture::ops::exp_and_sum(x.data(), acc(0), 40);
  for (std::size_t i = 0; i < 40; ++i) EXPECT_EQ(x[i], acc(i < 3 || i > 6 ? 1 : 0)) << i;
  EXPECT_EQ(sum, acc(36));
}

TYPED_TEST(simd, maximum_and_poison) {
  using acc = typename TestFixture::accumulator;
  for (index_t count = 1; count <= this->longest; ++count) {
    strided<acc> x(count, 1, 14);
    double greatest = -5;
    for (index_t i = 0; i < count; ++i) greatest = std::max(greatest, x[i]);
    acc maximum = acc(-5);
    EXPECT_EQ(TestFixture::ops::raise_maximum(x.data(), count, &maximum), acc(0));
    EXPECT_EQ(maximum, static_cast<acc>(greatest));
    if (finite_math) continue;
    for (const double bad : {HUGE_VAL, -HUGE_VAL, std::nan("")}) {
      strided<acc> y = x;
      y.data()[count / 2] = static_cast<acc>(bad);
      EXPECT_TRUE(std::isnan(TestFixture::ops::raise_maximum(y.data(), count, &maximum)));
    }
  }
}

TEST(simd_name, is_the_architecture_that_the_compiler_was_told_of) {
  const std::string name = zt::instruction_set_name();
#if defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
  EXPECT_EQ(name, "avx512bw");
#elif defined(__AVX2__)
  EXPECT_NE(name.find("avx2"), std::string::npos) << name;
#else
  EXPECT_NE(name.find("sse"), std::string::npos) << name;
#endif
  EXPECT_EQ(name, zt::instruction_set_name(zt::backend::simd<>{}));
}

}  // namespace
