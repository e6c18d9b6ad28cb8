// SPDX-License-Identifier: Apache-2.0
// Scores of one row of logits and their gradient against the formulas.
#include "llama/probability.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace {

TEST(Probability, ScoresAreTheFormulas) {
  const std::vector<float> logits{0.5f, -1.25f, 3.0f, 3.0f, -0.5f};
  double sum = 0, entropy = 0;
  for (const float each : logits) sum += std::exp(static_cast<double>(each));
  for (const float each : logits) {
    const double p = std::exp(static_cast<double>(each)) / sum;
    entropy -= p * std::log(p);
  }
  EXPECT_NEAR(llama::log_sum_exp(logits), std::log(sum), 1e-12);
  EXPECT_NEAR(llama::log_probability(logits, 1), -1.25 - std::log(sum), 1e-12);
  EXPECT_NEAR(llama::entropy(logits), entropy, 1e-12);
  EXPECT_EQ(llama::argmax(logits), 2);
}

TEST(Probability, LongRowsOfAnyLengthAreTheFormulasInLongDouble) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for (std::size_t size = 1; size <= 70; ++size)
    for (const float width : {0.1f, 30.0f, 900.0f}) {
      std::vector<float> logits(size);
      for (std::size_t i = 0; i < size; ++i)
        logits[i] = width * std::sin(static_cast<float>(7 * i + size));
      if (size > 3) logits[size / 2] = -infinity;
      const auto l = [&](std::size_t i) { return static_cast<long double>(logits[i]); };
      long double largest = l(0), sum = 0, entropy = 0;
      for (std::size_t i = 0; i < size; ++i) largest = std::max(largest, l(i));
      for (std::size_t i = 0; i < size; ++i) sum += std::exp(l(i) - largest);
      const long double log_sum = largest + std::log(sum);
      for (std::size_t i = 0; i < size; ++i) {
        const long double p = std::exp(l(i) - log_sum);
        if (p > 0) entropy -= p * (l(i) - log_sum);
      }
      const double scale = 4e-16 * (1.0 + std::abs(static_cast<double>(log_sum)));
      EXPECT_NEAR(llama::log_sum_exp(logits), static_cast<double>(log_sum), 4 * scale)
          << size << " logits, " << width;
      EXPECT_NEAR(llama::entropy(logits), static_cast<double>(entropy), 1e-14)
          << size << " logits, " << width;
      const auto first =
          std::find(logits.begin(), logits.end(), static_cast<float>(largest)) - logits.begin();
      EXPECT_EQ(llama::argmax(logits), first);
      std::vector<float> gradient = logits;
      const llama::token_weight token{0, 0.5};
      llama::replace_by_gradient(gradient, {&token, 1}, 0.25);
      for (std::size_t i = 0; i < size; ++i) {
        const long double p = std::exp(l(i) - log_sum);
        const long double expected =
            p == 0 ? 0 : -p * (0.5L + 0.25L * (l(i) - log_sum + entropy)) + (i == 0 ? 0.5L : 0.0L);
        EXPECT_NEAR(static_cast<double>(gradient[i]), static_cast<double>(expected), 6e-8)
            << size << " logits, " << width << ", at " << i;
      }
    }
}

TEST(Probability, NaNStaysOneAndIsNeverTheLargest) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (std::size_t size = 2; size < 40; ++size)
    for (std::size_t at = 0; at < size; ++at) {
      std::vector<float> logits(size, -1.0f);
      logits[at] = nan;
      EXPECT_TRUE(std::isnan(llama::log_sum_exp(logits)));
      EXPECT_TRUE(std::isnan(llama::entropy(logits)));
      EXPECT_EQ(llama::argmax(logits), at == 0 ? 1 : 0);
    }
  EXPECT_EQ(llama::argmax(std::vector<float>{nan, nan}), 0);
}

TEST(Probability, GradientsAreCentralDifferences) {
  const std::vector<float> logits{0.5f, -1.25f, 3.0f, 2.0f, -0.5f};
  const std::vector<llama::token_weight> tokens{{2, 0.75}, {0, -1.5}, {2, 0.5}};
  constexpr double entropy_weight = 1.25;
  const auto at = [&](const std::vector<double>& x) {
    double sum = 0, entropy = 0;
    for (const double each : x) sum += std::exp(each);
    const auto log_p = [&](std::size_t i) { return x[i] - std::log(sum); };
    for (std::size_t i = 0; i < x.size(); ++i) entropy -= std::exp(log_p(i)) * log_p(i);
    double total = entropy_weight * entropy;
    for (const auto& each : tokens)
      total += each.weight * log_p(static_cast<std::size_t>(each.token));
    return total;
  };
  std::vector<float> found = logits;
  llama::replace_by_gradient(found, tokens, entropy_weight);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    std::vector<double> above(logits.begin(), logits.end()), below = above;
    above[i] += 1e-4;
    below[i] -= 1e-4;
    EXPECT_NEAR(static_cast<double>(found[i]), (at(above) - at(below)) / 2e-4, 1e-6) << i;
  }
}

TEST(Probability, GradientsAtMinusInfinityAreZero) {
  std::vector<float> logits{1.0f, -std::numeric_limits<float>::infinity(), 1.0f};
  const llama::token_weight token{0, 1.0};
  llama::replace_by_gradient(logits, {&token, 1}, 1.0);
  EXPECT_EQ(logits[1], 0.0f);
  EXPECT_FLOAT_EQ(logits[0], 0.5f);
  EXPECT_FLOAT_EQ(logits[2], -0.5f);
}

}  // namespace
