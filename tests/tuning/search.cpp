// SPDX-License-Identifier: Apache-2.0
// The grid search on a model whose best gamma is known, and its guards.
#include "zerotune/tuning/search.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "support/errors.hpp"
#include "tuning/toy_host.hpp"

namespace {

using namespace zerotune;
using test::mentions;
using test::message_of;

const std::vector<index_t> helpful{1};

TEST(search, grid_is_sorted_and_has_one) {
  EXPECT_EQ(complete_grid({2, 0.5f, 2}), (std::vector<float>{0.5f, 1, 2}));
  EXPECT_TRUE(mentions(message_of([] { complete_grid({1, -2}); }), {"grid[1]", "-2"}));
}

TEST(search, finds_the_gamma_of_the_best_accuracy) {
  test::toy_host host = test::make_toy_host();
  const auto rows = test::all_rows(host);
  const search_outcome outcome =
      search_gamma(host, granularity::head_index, helpful, rows, host.labels);
  EXPECT_EQ(outcome.gamma(), 4.0f);
  EXPECT_EQ(outcome.candidates.size(), 9u);
  EXPECT_EQ(outcome.results.size(), 9u);
  EXPECT_EQ(outcome.forward_rows, 9 * 40);
  EXPECT_TRUE(outcome.warnings.empty());
  const std::vector<index_t> harmful{3};
  EXPECT_EQ(search_gamma(host, granularity::head_index, harmful, rows, host.labels).gamma(), 0.3f);
}

TEST(search, of_nothing_leaves_the_model_untouched) {
  test::toy_host host = test::make_toy_host();
  const auto rows = test::all_rows(host);
  EXPECT_EQ(search_gamma(host, granularity::head_index, {}, rows, host.labels).gamma(), 1.0f);
  const std::vector<index_t> idle{0};
  EXPECT_EQ(search_gamma(host, granularity::head_index, idle, rows, host.labels).gamma(), 1.0f);
}

TEST(search, likelihood_breaks_ties_of_accuracy) {
  test::toy_host host = test::make_toy_host();
  host.difficulty.assign(40, 0.1);
  const search_outcome outcome = search_gamma(host, granularity::head_index, helpful,
                                              test::all_rows(host), host.labels, {.grid = {2, 3}});
  EXPECT_EQ(outcome.candidates[1].score.value, outcome.candidates[2].score.value);
  EXPECT_EQ(outcome.gamma(), 3.0f);
}

TEST(search, unsupervised_needs_no_label) {
  test::toy_host host = test::make_toy_host();
  const std::vector<index_t> none(40, no_label);
  const search_outcome outcome =
      search_gamma(host, granularity::head_index, helpful, test::all_rows(host), none,
                   {.goal = objective::entropy, .max_divergence = 100});
  EXPECT_EQ(outcome.results.front().front().generated, no_label);  // not asked for
  EXPECT_NE(outcome.gamma(), 1.0f);
}

TEST(search, unsupervised_choice_at_the_edge_is_a_warning) {
  test::toy_host host = test::make_toy_host();
  const search_outcome outcome =
      search_gamma(host, granularity::head_index, helpful, test::all_rows(host), host.labels,
                   {.grid = {2, 4}, .goal = objective::choice_entropy, .max_divergence = 100});
  EXPECT_EQ(outcome.gamma(), 4.0f);
  ASSERT_EQ(outcome.warnings.size(), 1u);
  EXPECT_TRUE(mentions(outcome.warnings[0], {"edge", "accuracy"}));
}

// A model that says one thing whatever it reads has the least entropy of all.
TEST(search, divergence_from_the_untouched_model_is_capped) {
  test::toy_host host = test::make_toy_host();
  const search_outcome outcome =
      search_gamma(host, granularity::head_index, helpful, test::all_rows(host), host.labels,
                   {.grid = {1.2f, 1000}, .goal = objective::entropy, .max_divergence = 0.1});
  EXPECT_EQ(outcome.gamma(), 1.2f);
  EXPECT_FALSE(outcome.candidates.back().admitted);
  EXPECT_GT(outcome.candidates.back().divergence, 0.1);
  EXPECT_EQ(outcome.candidates[0].divergence, 0);
  ASSERT_EQ(outcome.warnings.size(), 1u);
  EXPECT_TRUE(mentions(outcome.warnings[0], {"1 candidate", "cap"}));
}

TEST(search, results_of_the_untouched_model_are_not_computed_again) {
  test::toy_host host = test::make_toy_host();
  const auto rows = test::all_rows(host);
  const search_options options{.grid = {0.5f, 2}};
  const auto untouched = host.evaluate(gamma_table(3, 5), rows, {}, {});
  host.rows_evaluated = 0;
  const search_outcome outcome = search_gamma(host, granularity::head_index, helpful, rows,
                                              host.labels, options, {}, untouched);
  EXPECT_EQ(host.rows_evaluated, 2 * 40);
  EXPECT_EQ(outcome.gamma(), 2.0f);
  EXPECT_EQ(outcome.candidates[1].divergence, 0);
}

TEST(search, candidates_without_one_are_refused) {
  EXPECT_TRUE(mentions(message_of([] { choose_candidate({}, {}); }), {"gamma = 1"}));
  test::toy_host host = test::make_toy_host();
  EXPECT_TRUE(mentions(
      message_of([&] { search_gamma(host, granularity::layer, helpful, {}, host.labels); }),
      {"examples"}));
}

TEST(objective, accuracy_is_the_mean_of_both_scores) {
  const std::vector<index_t> labels{0, 1}, rows{0, 1};
  std::vector<example_result> results(2);
  results[0] = {.predicted = 0, .generated = 0, .loglik = {0, -1}};
  results[1] = {.predicted = 1, .generated = no_label, .loglik = {-1, 0}};
  const accuracies shares = measure_accuracies(results, rows, labels);
  EXPECT_EQ(shares.likelihood, 1.0);
  EXPECT_EQ(shares.generated, 0.5);
  EXPECT_EQ(shares.invalid, 0.5);
  const objective_score score = measure(objective::accuracy, results, rows, labels);
  EXPECT_EQ(score.value, 0.75);
  EXPECT_NEAR(score.tie, -std::log1p(std::exp(-1.0)), 1e-12);
}

TEST(objective, mistakes_are_named) {
  const std::vector<index_t> labels{2}, rows{0};
  const std::vector<example_result> results{{.predicted = 0, .loglik = {0, -1}}};
  EXPECT_TRUE(mentions(message_of([&] { measure(objective::accuracy, results, rows, labels); }),
                       {"labels[0]", "2"}));
  EXPECT_TRUE(mentions(message_of([&] { measure(objective::entropy, results, {}, labels); }),
                       {"results", "1"}));
  EXPECT_TRUE(
      mentions(message_of([&] { choice_divergence(results, std::vector<example_result>(1)); }),
               {"after[0]"}));
}

}  // namespace
