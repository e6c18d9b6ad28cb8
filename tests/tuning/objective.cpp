// SPDX-License-Identifier: Apache-2.0
// Objectives by hand, and the distances that the guards go by.
#include "zerotune/tuning/objective.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "support/errors.hpp"

namespace {

using namespace zerotune;
using test::mentions;
using test::message_of;

const std::vector<index_t> labels{0, 1}, rows{0, 1};

std::vector<example_result> two_results() {
  return {{.predicted = 0, .generated = 0, .loglik = {0, -1}, .entropy = 3, .choice_entropy = 0.5},
          {.predicted = 1, .generated = no_label, .loglik = {-1, 0}, .entropy = 1}};
}

TEST(objective, accuracy_is_the_mean_of_both_scores) {
  const auto results = two_results();
  const accuracies shares = measure_accuracies(results, rows, labels);
  EXPECT_EQ(shares.likelihood, 1.0);
  EXPECT_EQ(shares.generated, 0.5);
  EXPECT_EQ(shares.invalid, 0.5);
  const objective_score score = measure(objective::accuracy, results, rows, labels);
  EXPECT_EQ(score.value, 0.75);
  EXPECT_NEAR(score.tie, -std::log1p(std::exp(-1.0)), 1e-12);
  const auto each = score_examples(objective::accuracy, results, rows, labels);
  EXPECT_EQ(each[0].value, 1.0);
  EXPECT_EQ(each[1].value, 0.5);
}

TEST(objective, the_others_are_means_too) {
  const auto results = two_results();
  const objective_score likelihood = measure(objective::likelihood, results, rows, labels);
  EXPECT_NEAR(likelihood.value, -std::log1p(std::exp(-1.0)), 1e-12);
  EXPECT_EQ(likelihood.tie, 0.75);
  EXPECT_EQ(measure(objective::entropy, results, rows, {}), (objective_score{-2, -0.25}));
  EXPECT_EQ(measure(objective::choice_entropy, results, rows, {}), (objective_score{-0.25, -2}));
  EXPECT_EQ(measure(objective::accuracy, {}, {}, {}), objective_score{});
}

TEST(objective, a_hopeless_row_stays_finite) {
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_NEAR(log_share(std::vector<double>{0, -infinity}, 1), std::log(1e-12), 1e-12);
}

// Three of four answers are label 0: H = -(3/4 log 3/4 + 1/4 log 1/4).
TEST(objective, label_spread_is_the_entropy_of_the_predictions) {
  std::vector<example_result> results(4);
  for (std::size_t i = 0; i < 4; ++i) results[i].predicted = i == 2 ? 1 : 0;
  EXPECT_NEAR(label_spread(results), 0.75 * std::log(4.0 / 3) + 0.25 * std::log(4.0), 1e-12);
  results[2].predicted = 0;
  EXPECT_EQ(label_spread(results), 0);
  EXPECT_EQ(label_spread({}), 0);
}

// p = (1/2, 1/2) against q = (1/4, 3/4): KL = log(2) / 2 + log(2/3) / 2.
TEST(objective, divergence_is_of_kullback_and_leibler) {
  const std::vector<example_result> before{{.loglik = {-1, -1}}};
  const std::vector<example_result> after{{.loglik = {0, std::log(3.0)}}};
  EXPECT_NEAR(choice_divergence(before, after), std::log(2.0) / 2 + std::log(2.0 / 3) / 2, 1e-12);
  EXPECT_EQ(choice_divergence(before, before), 0);
}

TEST(objective, mistakes_are_named) {
  const std::vector<index_t> two{2}, first{0};
  const std::vector<example_result> results{{.predicted = 0, .loglik = {0, -1}}};
  EXPECT_TRUE(mentions(message_of([&] { measure(objective::accuracy, results, first, two); }),
                       {"labels[0]", "2"}));
  EXPECT_TRUE(mentions(message_of([&] { measure(objective::entropy, results, {}, two); }),
                       {"results", "1"}));
  EXPECT_TRUE(
      mentions(message_of([&] { choice_divergence(results, std::vector<example_result>(1)); }),
               {"after[0]"}));
}

}  // namespace
