// SPDX-License-Identifier: Apache-2.0
// The Eigen back end's own operations against loops in double.
#include "zerotune/kernel/eigen/eigen.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace zt = zerotune;
using zt::index_t;

namespace {

template <class T>
class eigen : public ::testing::Test {
 protected:
  using ops = zt::row_ops<zt::backend::eigen, T>;
  static constexpr index_t longest = 33;
  static constexpr double tolerance = std::is_same_v<T, double> ? 1e-14 : 1e-5;

  static std::vector<T> numbers(index_t count, int seed) {
    std::vector<T> x(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = static_cast<T>(std::sin(1.0 + 3.7 * static_cast<double>(i) + seed));
    return x;
  }
  /// The element that a row of any stride begins with inside of its memory.
  static index_t first(index_t stride, index_t count) {
    return stride < 0 ? (1 - count) * stride : 0;
  }
};
using element_types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(eigen, element_types);

constexpr index_t strides[] = {1, 2, -1, -3, 0};

TYPED_TEST(eigen, sums_and_dots) {
  for (const index_t stride : strides)
    for (index_t count = 1; count <= this->longest; ++count) {
      const auto x = this->numbers(3 * count, 1), y = this->numbers(count, 2);
      const TypeParam* const row = x.data() + this->first(stride, count);
      double sum = 0, dot = 0;
      for (index_t i = 0; i < count; ++i) {
        sum += static_cast<double>(row[i * stride]);
        dot += static_cast<double>(row[i * stride]) *
               static_cast<double>(y[static_cast<std::size_t>(i)]);
      }
      EXPECT_NEAR(TestFixture::ops::sum(row, stride, count), sum, this->tolerance);
      EXPECT_NEAR(TestFixture::ops::dot(y.data(), 1, row, stride, count), dot, this->tolerance);
      EXPECT_NEAR(TestFixture::ops::dot(row, stride, y.data(), 1, count), dot, this->tolerance);
    }
  EXPECT_EQ(TestFixture::ops::sum(nullptr, 1, 0), 0.0);
}

TYPED_TEST(eigen, half_queries) {
  std::vector<zt::bfloat16> q(9);
  const auto k = this->numbers(9, 3);
  double expected = 0;
  for (std::size_t i = 0; i < 9; ++i) {
    q[i] = zt::bfloat16(static_cast<float>(i) * 0.25f);
    expected += 0.25 * static_cast<double>(i) * static_cast<double>(k[i]);
  }
  EXPECT_NEAR(TestFixture::ops::dot(q.data(), 1, k.data(), 1, 9), expected, this->tolerance);
}

TYPED_TEST(eigen, writes_rows_and_nothing_else) {
  for (const index_t stride : strides) {
    if (stride == 0) continue;
    for (index_t count = 1; count <= this->longest; ++count) {
      const auto x = this->numbers(count, 4), before = this->numbers(3 * count, 5);
      const index_t first = this->first(stride, count);
      auto scaled = before, stored = before;
      auto sums = this->numbers(count, 6), sums_before = sums;
      TestFixture::ops::scale(scaled.data() + first, stride, count, TypeParam(0.75));
      TestFixture::ops::store(x.data(), TypeParam(0.5), stored.data() + first, stride, count);
      TestFixture::ops::axpy(TypeParam(1.5), before.data() + first, stride, sums.data(), count);
      auto expected_scaled = before, expected_stored = before;
      for (index_t i = 0; i < count; ++i) {
        const auto at = static_cast<std::size_t>(first + i * stride);
        const auto n = static_cast<std::size_t>(i);
        expected_scaled[at] *= TypeParam(0.75);
        expected_stored[at] = x[n] * TypeParam(0.5);
        EXPECT_NEAR(sums[n], sums_before[n] + TypeParam(1.5) * before[at], this->tolerance);
      }
      EXPECT_EQ(scaled, expected_scaled) << count << " " << stride;
      EXPECT_EQ(stored, expected_stored) << count << " " << stride;
    }
  }
}

template <zt::form Form, class T>
constexpr bool has = zt::impl::has_kernel<zt::backend::eigen, Form, T>;
static_assert(has<zt::form::weights, float> && has<zt::form::gradient, double>);
static_assert(has<zt::form::logits, double> && has<zt::form::mask, float>);
static_assert(has<zt::form::keys, float> && has<zt::form::output, double>);
static_assert(!has<zt::form::attention, float> && !has<zt::form::attention, double>);
static_assert(!has<zt::form::weights, zt::float16> && !has<zt::form::weights, zt::bfloat16>);

}  // namespace
