// SPDX-License-Identifier: Apache-2.0
#include "llama/sampler.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "small_model.hpp"

namespace {

using llama::sampler;

const std::vector<float> logits{0.5f, 2.0f, -1.0f, 2.0f, 1.0f};

std::vector<int> counts_of(sampler& choose, const std::vector<float>& values, int draws) {
  std::vector<int> counts(values.size());
  for (int i = 0; i < draws; ++i) ++counts[static_cast<std::size_t>(choose(values))];
  return counts;
}

TEST(Sampler, GreedyTakesTheFirstOfTheLargest) {
  sampler choose({});
  EXPECT_EQ(choose(logits), 1);
}

TEST(Sampler, FrequenciesAreTheProbabilities) {
  sampler choose({.temperature = 0.8f, .seed = 7});
  constexpr int draws = 40000;
  const std::vector<int> counts = counts_of(choose, logits, draws);
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) / 0.8);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double p = std::exp(static_cast<double>(logits[i]) / 0.8) / sum;
    // Five standard deviations.
    EXPECT_NEAR(counts[i], draws * p, 5.0 * std::sqrt(draws * p * (1 - p))) << i;
  }
}

TEST(Sampler, TopKKeepsTheLikeliestAndAmongEqualsTheFirst) {
  sampler one({.temperature = 1.0f, .top_k = 1}), three({.temperature = 1.0f, .top_k = 3});
  EXPECT_EQ(counts_of(one, logits, 100), (std::vector<int>{0, 100, 0, 0, 0}));
  const std::vector<int> counts = counts_of(three, logits, 2000);
  EXPECT_EQ(counts[0] + counts[2], 0);
  EXPECT_GT(counts[4], 0);
}

TEST(Sampler, TopPKeepsTheFewestThatReachIt) {
  // Probabilities 0.5, 0.25, 0.125, 0.125.
  const std::vector<float> halves{std::log(0.25f), std::log(0.5f), std::log(0.125f),
                                  std::log(0.125f)};
  sampler half({.temperature = 1.0f, .top_p = 0.49f});
  EXPECT_EQ(counts_of(half, halves, 200), (std::vector<int>{0, 200, 0, 0}));
  sampler more({.temperature = 1.0f, .top_p = 0.7f});
  const std::vector<int> counts = counts_of(more, halves, 3000);
  EXPECT_EQ(counts[2] + counts[3], 0);
  EXPECT_NEAR(counts[0], 1000, 150);
}

TEST(Sampler, ASeedRepeatsAndAnotherDoesNot) {
  const auto run = [](std::uint64_t seed) {
    sampler choose({.temperature = 2.0f, .seed = seed});
    std::vector<int> chosen;
    for (int i = 0; i < 50; ++i) chosen.push_back(choose(logits));
    return chosen;
  };
  EXPECT_EQ(run(3), run(3));
  EXPECT_NE(run(3), run(4));
}

TEST(Sampler, InfinitiesAndNaNAreNoTrap) {
  constexpr float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float temperature : {0.0f, 1.0f}) {
    sampler choose({.temperature = temperature});
    EXPECT_EQ(choose(std::vector<float>{nan, 1.0f, -inf}), 1);
    EXPECT_EQ(choose(std::vector<float>{0.0f, inf, 1.0f}), 1);
    EXPECT_EQ(choose(std::vector<float>{3.0f}), 0);
    const int any = choose(std::vector<float>{nan, nan});
    EXPECT_TRUE(any == 0 || any == 1);
  }
}

TEST(Sampler, RefusesSenselessOptions) {
  for (const llama::sampler_options& options :
       {llama::sampler_options{.temperature = -1.0f},
        {.temperature = std::numeric_limits<float>::infinity()},
        {.temperature = std::numeric_limits<float>::quiet_NaN()},
        {.top_k = -1},
        {.top_p = 0.0f},
        {.top_p = 1.5f},
        {.top_p = std::numeric_limits<float>::quiet_NaN()}})
    EXPECT_THROW(sampler{options}, std::invalid_argument);
}

TEST(Generate, StopsAtTheLimitTheRefusalOrTheEndOfTheContext) {
  const llama::model m = llama::test::make_small_model();
  const std::vector<int> prompt = llama::test::random_tokens(10, 211, 1);
  llama::workspace space;
  llama::sampler choose({});
  const auto run = [&](const std::vector<int>& tokens, int most, int refuse_at) {
    llama::kv_cache cache(m.config());
    int seen = 0;
    auto chosen = generate(m, llama::untouched{}, tokens, cache, choose, most, space,
                           [&](int) { return ++seen != refuse_at; });
    EXPECT_EQ(cache.length(),
              static_cast<std::int64_t>(tokens.size() + chosen.size() - (chosen.empty() ? 0 : 1)) -
                  (chosen.empty() ? static_cast<std::int64_t>(tokens.size()) : 0));
    return chosen;
  };
  const std::vector<int> twenty = run(prompt, 20, -1);
  EXPECT_EQ(twenty.size(), 20u);
  EXPECT_EQ(run(prompt, 0, -1).size(), 0u);
  EXPECT_EQ(run(prompt, 20, 3), std::vector<int>(twenty.begin(), twenty.begin() + 3));
  const std::vector<int> long_prompt = llama::test::random_tokens(508, 211, 1);
  EXPECT_EQ(run(long_prompt, 100, -1).size(), 5u);
}

}  // namespace
