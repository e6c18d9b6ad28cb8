// SPDX-License-Identifier: Apache-2.0
// Races whose winner is known, what they cost, and the guards of the unsupervised objectives.
#include "zerotune/tuning/race.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <vector>

#include "support/errors.hpp"
#include "tuning/linear_host.hpp"
#include "tuning/toy_host.hpp"

namespace {

using namespace zerotune;
using test::mentions;
using test::message_of;

const std::vector<float> grid{0.3f, 0.5f, 0.7f, 1.4f, 2, 2.5f, 3, 4};

std::vector<tuning_candidate> grid_of(const std::vector<index_t>& heads,
                                      std::vector<float> gammas = grid) {
  std::vector<tuning_candidate> candidates{untouched_candidate(3, 5)};
  for (auto& candidate :
       grid_candidates("uniform", granularity::head_index, 3, 5, heads, std::move(gammas)))
    candidates.push_back(std::move(candidate));
  return candidates;
}

TEST(race, a_single_round_finds_the_best_of_a_grid) {
  test::toy_host host = test::make_toy_host();
  const auto rows = test::all_rows(host);
  const auto up = grid_of({1});
  const race_outcome outcome = race(host, up, rows, host.labels, {.first_rows = 0});
  EXPECT_EQ(up[outcome.chosen].factor, 4.0f);
  EXPECT_EQ(outcome.leader, outcome.chosen);
  EXPECT_EQ(host.rows_evaluated, 9 * 40);
  EXPECT_TRUE(outcome.warnings.empty());
  for (const raced_candidate& candidate : outcome.candidates) EXPECT_EQ(candidate.rows, 40);
  const auto down = grid_of({3});
  EXPECT_EQ(down[race(host, down, rows, host.labels, {.first_rows = 0}).chosen].factor, 0.3f);
}

// The best candidate is best on every slice here, so halving must find it, and cheaply.
TEST(race, halving_finds_the_known_best_for_less) {
  test::toy_host host = test::make_toy_host(64);
  // Every stretch of rows is like the whole: easy and hard ones alternate.
  for (std::size_t i = 0; i < 64; ++i) host.difficulty[i] = -2 + 0.5 * static_cast<double>(i % 8);
  const auto rows = test::all_rows(host);
  const auto candidates = grid_of({1});
  const race_outcome outcome =
      race(host, candidates, rows, host.labels, {.first_rows = 16, .keep = 0.5});
  EXPECT_EQ(candidates[outcome.chosen].factor, 4.0f);
  // 9 candidates on 16 rows, the untouched model and 4 of 8 on 16 more, and 2 of 4 on 32 more.
  EXPECT_EQ(host.rows_evaluated, 9 * 16 + 5 * 16 + 3 * 32);
  EXPECT_EQ(outcome.candidates[0].rows, 64);
  std::map<index_t, int> rows_of;
  for (const raced_candidate& candidate : outcome.candidates) ++rows_of[candidate.rows];
  EXPECT_EQ(rows_of, (std::map<index_t, int>{{16, 4}, {32, 2}, {64, 3}}));
  for (std::size_t i = 0; i < candidates.size(); ++i)
    EXPECT_EQ(outcome.results[i].size(), static_cast<std::size_t>(outcome.candidates[i].rows));
}

TEST(race, results_are_those_of_one_evaluation) {
  test::linear_host host = test::make_linear_host();
  const auto rows = test::rows_between(0, 60);
  std::vector<tuning_candidate> candidates{untouched_candidate(2, 3)};
  for (const float gamma : {0.5f, 2.0f, 3.0f})
    candidates.push_back({gamma_table(2, 3, gamma), "uniform", "", gamma});
  const race_outcome outcome = race(host, candidates, rows, host.labels, {.first_rows = 7});
  const auto all =
      host.evaluate(candidates[outcome.chosen].gamma, rows, needed_for(objective::accuracy), {});
  EXPECT_EQ(outcome.results[outcome.chosen], all);
  host.threads = 5;
  EXPECT_EQ(race(host, candidates, rows, host.labels, {.first_rows = 7}).results, outcome.results);
}

TEST(race, of_one_is_won_by_the_untouched_model) {
  test::toy_host host = test::make_toy_host();
  const std::vector<tuning_candidate> one{untouched_candidate(3, 5)};
  EXPECT_EQ(race(host, one, test::all_rows(host), host.labels, {}).chosen, 0u);
  EXPECT_EQ(host.rows_evaluated, 40);
}

TEST(race, equals_go_to_the_earlier) {
  test::toy_host host = test::make_toy_host();
  const auto candidates = grid_of({0}, {2, 3});  // head 0 does nothing
  EXPECT_EQ(race(host, candidates, test::all_rows(host), host.labels, {}).chosen, 0u);
}

TEST(race, likelihood_breaks_ties_of_accuracy) {
  test::toy_host host = test::make_toy_host();
  host.difficulty.assign(40, 0.1);
  const auto candidates = grid_of({1}, {2, 3});
  const race_outcome outcome =
      race(host, candidates, test::all_rows(host), host.labels, {.first_rows = 0});
  EXPECT_EQ(outcome.candidates[1].score.value, outcome.candidates[2].score.value);
  EXPECT_EQ(candidates[outcome.chosen].factor, 3.0f);
}

// Three tables on 40 rows: gamma 4 is right on 21 rows, gamma 2 on 20 and more sure of the answers,
// the untouched model on 18.
struct scripted_host {
  index_t num_layers() const { return 1; }
  index_t num_heads() const { return 1; }
  std::vector<example_result> evaluate(const gamma_table& gamma, std::span<const index_t> examples,
                                       const quantities&, const progress_callback&) {
    const index_t known = gamma(0, 0) == 4.0f ? 21 : gamma(0, 0) == 2.0f ? 20 : 18;
    const double sure = gamma(0, 0) == 2.0f ? 1 : 0;
    std::vector<example_result> results;
    for (const index_t row : examples) {
      const index_t answer = row < known ? 0 : 1;
      results.push_back({.predicted = answer, .generated = answer, .loglik = {sure, 0}});
    }
    return results;
  }
};

TEST(race, what_cannot_be_told_apart_counts_as_equal) {
  scripted_host host;
  const std::vector<index_t> labels(40, 0);
  const auto rows = test::rows_between(0, 40);
  std::vector<tuning_candidate> candidates{untouched_candidate(1, 1)};
  for (const float gamma : {4.0f, 2.0f})
    candidates.push_back({gamma_table(1, 1, gamma), "uniform", "", gamma});
  race_options options{.first_rows = 0};
  const race_outcome best = race(host, candidates, rows, labels, options);
  EXPECT_EQ(best.chosen, 1u);
  // One of 40 differences is 1: its mean and standard error are both 1 / 40. Three of them: 3 / 40
  // and sqrt(3 (1 - 3 / 40) / (39 * 40)).
  EXPECT_DOUBLE_EQ(best.candidates[2].behind, 0.025);
  EXPECT_DOUBLE_EQ(best.candidates[2].standard_error, 0.025);
  EXPECT_DOUBLE_EQ(best.candidates[0].behind, 0.075);
  EXPECT_NEAR(best.candidates[0].standard_error, std::sqrt(3 * 0.925 / (39 * 40)), 1e-12);
  const auto chosen = [&](double margin) {
    options.margin = margin;
    const race_outcome outcome = race(host, candidates, rows, labels, options);
    EXPECT_EQ(outcome.leader, 1u);
    return outcome.chosen;
  };
  EXPECT_EQ(chosen(0.9), 1u);
  EXPECT_EQ(chosen(1.5), 2u);  // the better likelihood
  EXPECT_EQ(chosen(2.0), 0u);  // 0.075 is 1.78 standard errors: not even better than untouched
}

/// Every table answers alike; gamma 2 is more sure.
struct unmoved_host {
  index_t num_layers() const { return 1; }
  index_t num_heads() const { return 1; }
  std::vector<example_result> evaluate(const gamma_table& gamma, std::span<const index_t> examples,
                                       const quantities&, const progress_callback&) {
    std::vector<example_result> results;
    for (const index_t row : examples)
      results.push_back({.predicted = row % 2,
                         .generated = row % 2,
                         .loglik = {gamma(0, 0) == 2.0f ? 1.0 : 0.0, 0}});
    return results;
  }
};

TEST(race, equal_answers_cannot_be_told_apart) {
  unmoved_host host;
  const std::vector<index_t> labels(40, 0);
  const std::vector<tuning_candidate> candidates{untouched_candidate(1, 1),
                                                 {gamma_table(1, 1, 2.0f), "uniform", "", 2.0f}};
  const auto chosen = [&](double margin) {
    return race(host, candidates, test::rows_between(0, 40), labels,
                {.first_rows = 0, .margin = margin})
        .chosen;
  };
  EXPECT_EQ(chosen(0), 1u);  // the tie-breaker alone
  EXPECT_EQ(chosen(1), 0u);
}

TEST(race, unsupervised_needs_no_label_and_warns_at_the_edge) {
  test::toy_host host = test::make_toy_host();
  const std::vector<index_t> none(40, no_label);
  const auto candidates = grid_of({1}, {2, 4});
  const race_outcome outcome =
      race(host, candidates, test::all_rows(host), none,
           {.goal = objective::choice_entropy, .first_rows = 0, .max_divergence = 100});
  EXPECT_EQ(candidates[outcome.chosen].factor, 4.0f);
  EXPECT_EQ(outcome.results.front().front().generated, no_label);  // not asked for
  ASSERT_EQ(outcome.warnings.size(), 1u);
  EXPECT_TRUE(mentions(outcome.warnings[0], {"edge", "gamma 4", "accuracy"}));
}

// A model that is sure of itself has little entropy whether or not it is right.
TEST(race, divergence_from_the_untouched_model_is_capped) {
  test::toy_host host = test::make_toy_host();
  const auto candidates = grid_of({1}, {1.2f, 1.3f, 1000});
  const race_outcome outcome =
      race(host, candidates, test::all_rows(host), host.labels,
           {.goal = objective::entropy, .first_rows = 0, .max_divergence = 0.1});
  EXPECT_FALSE(outcome.candidates.back().admitted);
  EXPECT_GT(outcome.candidates.back().divergence, 0.1);
  EXPECT_EQ(outcome.candidates[0].divergence, 0);
  EXPECT_NE(candidates[outcome.chosen].factor, 1000.0f);
  EXPECT_TRUE(mentions(outcome.warnings.at(0), {"1 candidate", "cap"}));
}

// Head (0, 0) moves all answers to choice 0: no entropy, and nothing said.
TEST(race, a_collapse_of_the_labels_is_refused) {
  test::linear_host host = test::make_linear_host(40);
  for (std::size_t i = 0; i < 40; ++i) {
    host.base[i] = {host.labels[i] == 0 ? 0.5 : -0.5, host.labels[i] == 0 ? -0.5 : 0.5, -2};
    host.slope[i].assign(3, std::vector<double>(6));
    host.slope[i][0][0] = 3;                                           // the collapse
    host.slope[i][static_cast<std::size_t>(host.labels[i])][1] = 0.5;  // sharpens
  }
  std::vector<tuning_candidate> candidates{untouched_candidate(2, 3)};
  candidates.push_back({gamma_table::from(2, 3, {{0, 0}}, 4), "collapse", "", {}});
  candidates.push_back({gamma_table::from(2, 3, {{0, 1}}, 4), "sharpen", "", {}});
  const auto rows = test::rows_between(0, 40);
  race_options options{
      .goal = objective::choice_entropy, .first_rows = 0, .max_divergence = 1e9, .min_spread = 0};
  EXPECT_EQ(race(host, candidates, rows, host.labels, options).chosen, 1u);
  options.min_spread = 0.5;
  const race_outcome guarded = race(host, candidates, rows, host.labels, options);
  EXPECT_EQ(guarded.chosen, 2u);
  EXPECT_NEAR(guarded.candidates[0].spread, std::log(2.0), 1e-12);
  EXPECT_EQ(guarded.candidates[1].spread, 0);
  EXPECT_FALSE(guarded.candidates[1].admitted);
  EXPECT_TRUE(mentions(guarded.warnings.at(0), {"1 candidate", "same"}));
}

TEST(race, progress_counts_all_rows) {
  test::toy_host host = test::make_toy_host(64);
  index_t last = 0, all = 0;
  race(host, grid_of({1}), test::all_rows(host), host.labels, {.first_rows = 16},
       [&](index_t done, index_t total) {
         EXPECT_EQ(done, last + 1);
         last = done;
         all = total;
       });
  EXPECT_EQ(last, host.rows_evaluated);
  EXPECT_EQ(all, last);
}

TEST(race, mistakes_are_named) {
  test::toy_host host = test::make_toy_host();
  const auto rows = test::all_rows(host);
  const auto candidates = grid_of({1});
  const auto refused = [&](const race_options& options) {
    return message_of([&] { race(host, candidates, rows, host.labels, options); });
  };
  EXPECT_TRUE(mentions(message_of([&] { race(host, {}, rows, host.labels); }), {"candidates"}));
  EXPECT_TRUE(mentions(message_of([&] { race(host, candidates, {}, host.labels); }), {"examples"}));
  EXPECT_TRUE(mentions(refused({.first_rows = -1}), {"first_rows", "-1"}));
  EXPECT_TRUE(mentions(refused({.growth = 1}), {"growth"}));
  EXPECT_TRUE(mentions(refused({.keep = 0}), {"keep"}));
  EXPECT_TRUE(mentions(refused({.keep = std::nan("")}), {"keep"}));
  EXPECT_TRUE(mentions(refused({.margin = -1}), {"margin"}));
  host.labels[3] = no_label;
  EXPECT_TRUE(mentions(refused({}), {"labels[3]", "none"}));
}

}  // namespace
