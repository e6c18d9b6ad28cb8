// SPDX-License-Identifier: Apache-2.0
// Scores of one row of logits and their gradient against the formulas.
#include "llama/probability.hpp"

#include <gtest/gtest.h>

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
