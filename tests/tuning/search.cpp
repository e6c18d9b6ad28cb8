// SPDX-License-Identifier: Apache-2.0
// Searches of models whose best table is known, method by method and all together.
#include "zerotune/tuning/search.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "support/errors.hpp"
#include "tuning/linear_host.hpp"
#include "tuning/toy_host.hpp"

namespace {

using namespace zerotune;
using test::mentions;
using test::message_of;

search_options with(const search_methods& methods) {
  search_options options;
  options.methods = methods;
  options.race.first_rows = 0;
  return options;
}

const search_methods all{.uniform = true, .paper = true, .gradient_select = true, .descent = true};

TEST(search, uniform_scales_every_head) {
  test::toy_host host = test::make_toy_host();
  host.slope.assign(3, {0.5, 0.5, 0.5, 0.5, 0.5});
  const auto rows = test::all_rows(host);
  const search_outcome outcome = search_table(host, {}, rows, host.labels, with({.uniform = true}));
  EXPECT_EQ(outcome.candidates.size(), 9u);
  EXPECT_EQ(outcome.chosen().gamma, gamma_table(3, 5, outcome.chosen().factor.value()));
  EXPECT_GT(outcome.chosen().factor, 1.0f);
  EXPECT_FALSE(outcome.profile || outcome.gradient || outcome.descent);
}

TEST(search, paper_scales_the_dominant_kind) {
  test::toy_host host = test::make_toy_host();
  const auto rows = test::all_rows(host);
  const search_outcome outcome = search_table(host, rows, rows, host.labels, with({.paper = true}));
  ASSERT_TRUE(outcome.profile);
  EXPECT_EQ(outcome.kind, head_kind::up);
  EXPECT_EQ(outcome.selected, (std::vector<index_t>{1, 4}));
  EXPECT_EQ(outcome.chosen().gamma, gamma_table::from(3, {5, {1, 4}}, 4.0f));
  EXPECT_EQ(outcome.chosen().method, "paper");
}

TEST(search, paper_by_gradient_costs_no_probe) {
  test::linear_host host = test::make_linear_host();
  const auto rows = test::rows_between(0, 60);
  search_options options = with({.paper = true});
  options.profile = profiling::gradient;
  options.probe.unit = granularity::head;
  const search_outcome outcome = search_table(host, rows, rows, host.labels, options);
  EXPECT_EQ(host.rows_evaluated, 9 * 60);
  EXPECT_EQ(host.rows_differentiated, 60);
  EXPECT_EQ(std::count(outcome.selected.begin(), outcome.selected.end(), 3), 1);
}

TEST(search, of_a_model_without_effects_leaves_it_untouched) {
  test::toy_host host = test::make_toy_host();
  host.slope.assign(3, {0, 0, 0, 0, 0});
  const auto rows = test::all_rows(host);
  const search_outcome outcome =
      search_table(host, rows, rows, host.labels, with({.uniform = true, .paper = true}));
  EXPECT_TRUE(outcome.chosen().gamma.is_identity());
  EXPECT_EQ(outcome.chosen().method, "untouched");
  EXPECT_TRUE(mentions(outcome.warnings.at(0), {"no head"}));
}

// Junk answers need one head, right ones another, and a third must be turned down: no single gamma
// does that, and the paper's one kind of heads neither.
TEST(search, methods_that_know_each_head_win_where_heads_differ) {
  test::linear_host host = test::make_linear_host(160);
  const auto profile = test::rows_between(0, 40), search = test::rows_between(40, 100);
  const search_outcome outcome = search_table(host, profile, search, host.labels, with(all));
  EXPECT_TRUE(outcome.chosen().method == "descent" || outcome.chosen().method == "gradient-select");
  EXPECT_GT(outcome.chosen().gamma(0, 1), 1.5f);
  EXPECT_GT(outcome.chosen().gamma(1, 0), 1.5f);
  EXPECT_LT(outcome.chosen().gamma(1, 2), 0.7f);
  // On rows that nothing was chosen on, against the best single gamma.
  const auto test = test::rows_between(100, 160);
  const auto score = [&](const gamma_table& gamma) {
    return measure(objective::accuracy, host.evaluate(gamma, test, {}, {}), test, host.labels)
        .value;
  };
  double uniform = 0;
  for (const tuning_candidate& candidate : outcome.candidates)
    if (candidate.factor) uniform = std::max(uniform, score(candidate.gamma));
  EXPECT_GT(score(outcome.chosen().gamma), uniform + 0.05);
}

TEST(search, is_reproduced_by_its_seed_and_by_any_number_of_threads) {
  search_options options = with(all);
  options.race.first_rows = 10;
  options.descent.batch = 10;
  const auto chosen = [&](std::uint64_t seed, int threads) {
    test::linear_host host = test::make_linear_host(100);
    host.threads = threads;
    options.descent.seed = seed;
    return search_table(host, test::rows_between(0, 40), test::rows_between(40, 100), host.labels,
                        options);
  };
  const search_outcome once = chosen(1, 1);
  for (const int threads : {1, 2, 7}) {
    const search_outcome again = chosen(1, threads);
    EXPECT_EQ(again.race.chosen, once.race.chosen);
    EXPECT_EQ(again.race.results, once.race.results);
    EXPECT_EQ(again.descent->snapshots.back().gamma, once.descent->snapshots.back().gamma);
  }
  EXPECT_NE(chosen(2, 1).descent->snapshots.back().gamma, once.descent->snapshots.back().gamma);
}

// What helps on the profile split harms on the search split here: the rest is not paid for.
TEST(search, descent_stops_when_the_search_split_stops_improving) {
  test::linear_host host = test::make_linear_host();
  for (std::size_t i = 0; i < 60; ++i) {
    host.labels[i] = i < 30 ? 0 : 1;
    host.base[i] = {0, 0, -5};
    host.slope[i].assign(3, std::vector<double>(6));
    host.slope[i][0][0] = 1;
  }
  search_options options = with({.descent = true});
  options.descent.steps = 40;
  options.descent.keep = {2, 4, 6, 8, 10, 12, 14};
  options.patience = 3;
  const search_outcome outcome = search_table(host, test::rows_between(0, 30),
                                              test::rows_between(30, 60), host.labels, options);
  EXPECT_TRUE(outcome.descent->stopped_early);
  EXPECT_EQ(outcome.descent->steps.size(), 8u);
  EXPECT_EQ(outcome.chosen().method, "untouched");
}

TEST(search, watching_the_descent_costs_nothing_more_than_the_race) {
  test::linear_host host = test::make_linear_host();
  search_options options = with({.descent = true});
  options.descent.steps = 4;
  options.descent.batch = 0;
  options.watched_rows = 20;
  const auto rows = test::rows_between(0, 60);
  const search_outcome outcome = search_table(host, rows, rows, host.labels, options);
  EXPECT_EQ(outcome.candidates.size(), 3u);
  EXPECT_EQ(host.rows_evaluated, 3 * 60);
  // The first full batch is the gradient profile's.
  EXPECT_EQ(host.rows_differentiated, 4 * 60);
}

TEST(search, names_its_phases) {
  test::linear_host host = test::make_linear_host();
  const auto rows = test::rows_between(0, 60);
  std::vector<std::string> names;
  (void)search_table(host, rows, rows, host.labels, with(all), [&](const char* name) {
    names.push_back(name);
    return progress_callback([](index_t done, index_t total) { EXPECT_LE(done, total); });
  });
  EXPECT_EQ(names, (std::vector<std::string>{"gradient of every head", "probing heads", "descent",
                                             "comparing candidates"}));
}

TEST(search, unsupervised_descent_needs_no_label) {
  test::linear_host host = test::make_linear_host();
  host.labels.assign(60, no_label);
  search_options options = with({.descent = true});
  options.descent.loss = {.choices = 0, .choice_entropy = 1};
  options.race.goal = objective::choice_entropy;
  const auto rows = test::rows_between(0, 60);
  const search_outcome outcome = search_table(host, rows, rows, host.labels, options);
  EXPECT_LT(outcome.descent->steps.back().loss, outcome.descent->steps.front().loss);
  for (const raced_candidate& candidate : outcome.race.candidates) {
    if (!candidate.admitted) continue;
    EXPECT_LE(candidate.divergence, 0.5);
    EXPECT_GE(candidate.spread, 0.5 * outcome.race.candidates[0].spread);
  }
}

TEST(search, mistakes_are_named) {
  test::toy_host plain = test::make_toy_host();
  const auto rows = test::all_rows(plain);
  const auto refused = [&](auto& host, const search_options& options, bool profile = true,
                           bool search = true) {
    const std::vector<index_t> none;
    return message_of([&] {
      search_table(host, profile ? rows : none, search ? rows : none, host.labels, options);
    });
  };
  EXPECT_TRUE(mentions(refused(plain, with({.descent = true})), {"gradients"}));
  EXPECT_TRUE(mentions(refused(plain, with({.paper = true}), false), {"profile rows"}));
  EXPECT_TRUE(mentions(refused(plain, with({.uniform = true}), true, false), {"search rows"}));
  EXPECT_TRUE(mentions(refused(plain, search_options{}), {"search_table: methods", "none"}));
  plain.labels.pop_back();  // the last row of both splits has none now
  EXPECT_TRUE(mentions(refused(plain, with({.uniform = true})),
                       {"search_table: labels", std::to_string(plain.labels.size())}));
  test::linear_host host = test::make_linear_host();
  search_options options = with(all);
  options.patience = 0;
  EXPECT_TRUE(mentions(refused(host, options), {"patience"}));
  options = with(all);
  options.watched_rows = 0;
  EXPECT_TRUE(mentions(refused(host, options), {"watched_rows"}));
}

}  // namespace
