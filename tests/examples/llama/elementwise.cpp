// SPDX-License-Identifier: Apache-2.0
// Norm, rotation and SwiGLU against plain formulas in double, on lengths around a vector's.
#include "llama/elementwise.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

namespace {

std::vector<float> wave(std::size_t count, float scale) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = scale * std::sin(1.7f * static_cast<float>(i) + scale);
  return values;
}

double d(float value) { return static_cast<double>(value); }

TEST(RmsNorm, IsTheFormula) {
  for (const std::size_t length : {1u, 15u, 16u, 17u, 64u, 77u}) {
    const std::vector<float> x = wave(length, 2.0f), weight = wave(length, 0.7f);
    std::vector<float> y(length), in_place = x;
    llama::rms_norm(x, weight, 1e-5f, y);
    llama::rms_norm(in_place, weight, 1e-5f, in_place);
    double squares = 0.0;
    for (const float value : x) squares += d(value) * d(value);
    const double scale = 1.0 / std::sqrt(squares / static_cast<double>(length) + 1e-5);
    for (std::size_t i = 0; i < length; ++i)
      EXPECT_NEAR(d(y[i]), d(x[i]) * scale * d(weight[i]), 1e-6) << length;
    EXPECT_EQ(in_place, y);
  }
}

TEST(RmsNorm, BackwardIsTheDifferenceQuotient) {
  for (const std::size_t length : {1u, 15u, 16u, 17u, 64u, 77u}) {
    const std::vector<float> x = wave(length, 2.0f), weight = wave(length, 0.7f),
                             d_y = wave(length, 1.3f), before = wave(length, 0.4f);
    std::vector<float> d_x = before;
    llama::rms_norm_backward(x, weight, 1e-5f, d_y, d_x);
    // <d_y, rms_norm(x)> in double, with one element of x moved.
    const auto value = [&](std::size_t moved, double by) {
      double squares = 0.0, product = 0.0;
      const auto at = [&](std::size_t i) { return d(x[i]) + (i == moved ? by : 0.0); };
      for (std::size_t i = 0; i < length; ++i) squares += at(i) * at(i);
      const double scale = 1.0 / std::sqrt(squares / static_cast<double>(length) + 1e-5);
      for (std::size_t i = 0; i < length; ++i) product += d(d_y[i]) * at(i) * scale * d(weight[i]);
      return product;
    };
    for (std::size_t i = 0; i < length; ++i)
      EXPECT_NEAR(d(d_x[i]), d(before[i]) + (value(i, 1e-5) - value(i, -1e-5)) / 2e-5, 2e-6)
          << length;
  }
}

TEST(Rotate, BackIsTheInverse) {
  for (const std::size_t half : {1u, 3u, 16u, 20u}) {
    const std::size_t head_dim = 2 * half + 3;
    const std::vector<float> before = wave(3 * head_dim, 1.5f);
    std::vector<float> after = before, cosines(half), sines(half);
    for (std::size_t i = 0; i < half; ++i) {
      cosines[i] = std::cos(0.3f * static_cast<float>(i + 1));
      sines[i] = std::sin(0.3f * static_cast<float>(i + 1));
    }
    llama::rotate(after, static_cast<int>(head_dim), cosines, sines);
    EXPECT_NE(after, before);
    llama::rotate_back(after, static_cast<int>(head_dim), cosines, sines);
    for (std::size_t i = 0; i < before.size(); ++i) EXPECT_NEAR(d(after[i]), d(before[i]), 1e-6);
  }
}

TEST(Rotate, TurnsPairsAndLeavesTheRest) {
  for (const std::size_t half : {1u, 3u, 16u, 20u, 32u}) {
    const std::size_t head_dim = 2 * half + 3;
    const std::vector<float> before = wave(3 * head_dim, 1.5f);
    std::vector<float> after = before, cosines(half), sines(half);
    for (std::size_t i = 0; i < half; ++i) {
      cosines[i] = std::cos(0.3f * static_cast<float>(i));
      sines[i] = std::sin(0.3f * static_cast<float>(i));
    }
    llama::rotate(after, static_cast<int>(head_dim), cosines, sines);
    for (std::size_t head = 0; head < 3; ++head) {
      const float* const a = before.data() + head * head_dim;
      const float* const b = after.data() + head * head_dim;
      for (std::size_t i = 0; i < half; ++i) {
        EXPECT_NEAR(d(b[i]), d(a[i]) * d(cosines[i]) - d(a[i + half]) * d(sines[i]), 1e-6);
        EXPECT_NEAR(d(b[i + half]), d(a[i + half]) * d(cosines[i]) + d(a[i]) * d(sines[i]), 1e-6);
      }
      for (std::size_t i = 2 * half; i < head_dim; ++i) EXPECT_EQ(b[i], a[i]);
    }
  }
}

TEST(Swiglu, IsTheFormulaFarOutToo) {
  std::vector<float> gate;
  for (float g = -120.0f; g <= 120.0f; g += 0.37f) gate.push_back(g);
  gate.insert(gate.end(), {0.0f, -0.0f, 1e-30f, 1e30f, -1e30f});
  std::vector<float> y(gate.size());
  const std::vector<float> up = wave(gate.size(), 3.0f);
  llama::swiglu(gate, up, y);
  for (std::size_t i = 0; i < gate.size(); ++i) {
    const double expected = d(gate[i]) / (1.0 + std::exp(-d(gate[i]))) * d(up[i]);
    // Below -87 the result is not quite 0 relative to |gate|: e^-87 is 1.6e-38.
    EXPECT_NEAR(d(y[i]), expected, 1e-6 * std::abs(expected) + 1e-7) << gate[i];
  }
}

TEST(Swiglu, BackwardIsTheFormulaFarOutToo) {
  std::vector<float> gate;
  for (float g = -120.0f; g <= 120.0f; g += 0.37f) gate.push_back(g);
  gate.insert(gate.end(), {0.0f, -0.0f, 1e-30f, 1e30f, -1e30f});
  const std::size_t count = gate.size();
  const std::vector<float> up = wave(count, 3.0f), d_y = wave(count, 0.8f);
  std::vector<float> both = gate, d_both(2 * count, -7.0f);
  both.insert(both.end(), up.begin(), up.end());
  llama::swiglu_backward(both, d_y, d_both);
  for (std::size_t i = 0; i < count; ++i) {
    const double g = d(gate[i]), sigmoid = 1.0 / (1.0 + std::exp(-g));
    const double d_gate =
        d(d_y[i]) * d(up[i]) * (sigmoid + g * (1.0 / (1.0 + std::exp(g))) * sigmoid);
    const double d_up = d(d_y[i]) * g * sigmoid;
    EXPECT_NEAR(d(d_both[i]), d_gate, 2e-6 * std::abs(d_gate) + 3e-6) << gate[i];
    EXPECT_NEAR(d(d_both[count + i]), d_up, 2e-6 * std::abs(d_up) + 1e-7) << gate[i];
  }
}

TEST(Swiglu, PassesNaNOn) {
  std::vector<float> gate(17, 1.0f), y(17);
  const std::vector<float> up(17, 1.0f);
  gate[16] = std::numeric_limits<float>::quiet_NaN();
  llama::swiglu(gate, up, y);
  EXPECT_TRUE(std::isnan(y[16]));
  EXPECT_FALSE(std::isnan(y[15]));
}

TEST(Elementwise, BitsDoNotDependOnTheAddress) {
  std::vector<float> memory(200), y(77), z(77);
  const std::vector<float> x = wave(154, 2.0f);
  for (std::size_t shift = 0; shift < 20; ++shift) {
    std::copy(x.begin(), x.end(), memory.begin() + static_cast<std::ptrdiff_t>(shift));
    const auto both = std::span<const float>(memory).subspan(shift, 154);
    llama::swiglu(both.first(77), both.last(77), shift == 0 ? y : z);
    if (shift == 0) continue;
    EXPECT_EQ(y, z) << shift;
  }
}

TEST(Add, AddsEveryElement) {
  for (const std::size_t length : {1u, 16u, 33u}) {
    const std::vector<float> from = wave(length, 2.0f), before = wave(length, 0.5f);
    std::vector<float> to = before;
    llama::add(from, to);
    for (std::size_t i = 0; i < length; ++i) EXPECT_EQ(to[i], before[i] + from[i]);
  }
}

TEST(Round, IsBfloat16TiesToEven) {
  const std::vector<float> values{1.0f,
                                  0x1.01p0f,      // half way: to the even neighbour below
                                  0x1.03p0f,      // half way: to the one above
                                  0x1.010002p0f,  // beyond half way
                                  -0x1.03p0f,
                                  0.0f,
                                  -0.0f,
                                  0x1.fffffep127f,  // rounds to infinity
                                  std::numeric_limits<float>::infinity()};
  const std::vector<float> expected{1.0f,
                                    1.0f,
                                    0x1.04p0f,
                                    0x1.02p0f,
                                    -0x1.04p0f,
                                    0.0f,
                                    -0.0f,
                                    std::numeric_limits<float>::infinity(),
                                    std::numeric_limits<float>::infinity()};
  std::vector<zerotune::bfloat16> rounded(values.size());
  llama::round(values, rounded);
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(static_cast<float>(rounded[i]), expected[i]) << i;
    EXPECT_EQ(std::signbit(static_cast<float>(rounded[i])), std::signbit(expected[i])) << i;
  }
  // A NaN whose upper bits alone would be infinity.
  const std::vector<float> nan{std::bit_cast<float>(0x7f800001u)};
  llama::round(nan, rounded);
  EXPECT_TRUE(std::isnan(static_cast<float>(rounded[0])));
}

}  // namespace
