// SPDX-License-Identifier: Apache-2.0
// A simulation of the choice that --method auto makes: among candidates within a standard error of
// the best the untouched model wins, then the better likelihood. Beside plain best-of-n, on worlds
// whose true accuracies are known and shaped like those seen on real tasks: 28 candidates, 128
// rows, a race. With ZEROTUNE_TEST_VERBOSE it prints the figures. What it shows: on average the
// rule is no better than best-of-n (equal where nothing helps, 0.2 to 0.6 points behind elsewhere);
// what it buys is that a table worse than the untouched model is chosen half as often where nothing
// helps. The standard error of these means is about 0.2 points.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numbers>
#include <span>
#include <string>
#include <vector>

#include "zerotune/tuning/race.hpp"
#include "zerotune/tuning/random.hpp"

namespace {

using namespace zerotune;

constexpr index_t search_rows = 128;

double normal(random_source& random) {  // Box and Muller
  const double radius = std::sqrt(-2 * std::log(1 - random.uniform()));
  return radius * std::cos(2 * std::numbers::pi * random.uniform());
}

double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }

// The x with normal_cdf(x) = p, by bisection.
double normal_quantile(double p) {
  double low = -9, high = 9;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (normal_cdf(middle) < p ? low : high) = middle;
  }
  return low;
}

// A candidate as it truly is.
struct truth {
  double likelihood;  // share of rows that it gets right
  double valid;       // share of right rows whose generated answer is in form
  double sharpness;   // of its probabilities: how sure it is, which its likelihood depends on
  double accuracy() const { return likelihood * (1 + valid) / 2; }
};

// Answers as candidates with these truths give them: rows are easy or hard for all of them alike
// (`common` is the share of the variance), and what is left is a candidate's own.
struct world_host {
  std::vector<truth> candidates;
  std::uint64_t seed;
  double common = 0.6;
  std::vector<index_t> labels = std::vector<index_t>(search_rows, 0);

  index_t num_layers() const { return 1; }
  index_t num_heads() const { return 1; }
  std::vector<example_result> evaluate(const gamma_table& gamma, std::span<const index_t> examples,
                                       const quantities&, const progress_callback&) {
    const auto which = static_cast<std::size_t>(std::lround(gamma(0, 0))) - 1;
    const truth& candidate = candidates[which];
    std::vector<example_result> results;
    for (const index_t row : examples) {
      const auto number = static_cast<std::uint64_t>(row);
      random_source shared(seed * 4001 + number);
      random_source own((seed * 4001 + number) * 64 + which + 1);
      const double difficulty =
          std::sqrt(common) * normal(shared) + std::sqrt(1 - common) * normal(own);
      const double margin =
          candidate.sharpness * (normal_quantile(candidate.likelihood) - difficulty);
      example_result result;
      result.loglik = {margin / 2, -margin / 2};
      result.predicted = largest_choice(result.loglik);
      result.generated = own.uniform() < candidate.valid ? result.predicted : no_label;
      results.push_back(std::move(result));
    }
    return results;
  }
};

// What a method's candidates are like in a world: `spread` is the standard deviation of their
// accuracies, and descent's snapshots rise towards their last.
struct world {
  const char* name;
  truth untouched;
  truth others, others_spread;
  truth first_snapshot, last_snapshot;
};

constexpr int snapshots = 8, others = 19;

std::vector<truth> draw(const world& w, random_source& random) {
  std::vector<truth> all{w.untouched};
  const auto clamped = [](double share) { return std::clamp(share, 0.01, 0.99); };
  const auto add = [&](const truth& mean) {
    all.push_back({clamped(mean.likelihood + w.others_spread.likelihood * normal(random)),
                   clamped(mean.valid + w.others_spread.valid * normal(random)),
                   mean.sharpness * std::exp(0.4 * normal(random))});
  };
  for (int i = 0; i < others; ++i) add(w.others);
  for (int i = 0; i < snapshots; ++i) {
    const double at = i / (snapshots - 1.0);
    const auto between = [&](double truth::*member) {
      return w.first_snapshot.*member + at * (w.last_snapshot.*member - w.first_snapshot.*member);
    };
    add({between(&truth::likelihood), between(&truth::valid), between(&truth::sharpness)});
  }
  return all;
}

struct tally {
  double accuracy = 0;   // true, of the chosen one
  double best = 0;       // of the best one there was
  double untouched = 0;  // how often it was chosen
  double harm = 0;       // how often the chosen one is truly worse than the untouched model
};
struct comparison_of_rules {
  tally plain, rule;
  double worse = 0, better = 0;  // how often the rule's pick is truly > 1 point worse or better
};

comparison_of_rules simulate(const world& w, int trials) {
  comparison_of_rules result;
  std::vector<tuning_candidate> tables{untouched_candidate(1, 1)};
  for (int i = 1; i <= others + snapshots; ++i)
    tables.push_back({gamma_table(1, 1, static_cast<float>(i + 1)), "candidate", "", {}});
  std::vector<index_t> rows(search_rows);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<index_t>(i);
  for (int trial = 0; trial < trials; ++trial) {
    random_source random(static_cast<std::uint64_t>(trial) + 1);
    world_host host{draw(w, random), random.next()};
    double best = 0;
    for (const truth& candidate : host.candidates) best = std::max(best, candidate.accuracy());
    const auto pick = [&](double margin, tally& to) {
      const std::size_t chosen =
          race(host, tables, rows, host.labels, {.first_rows = 16, .margin = margin}).chosen;
      const double accuracy = host.candidates[chosen].accuracy();
      to.accuracy += accuracy / trials;
      to.best += best / trials;
      to.untouched += (chosen == 0) / static_cast<double>(trials);
      to.harm += (accuracy < host.candidates[0].accuracy()) / static_cast<double>(trials);
      return accuracy;
    };
    const double plain = pick(0, result.plain), rule = pick(1, result.rule);
    result.worse += (rule < plain - 0.01) / static_cast<double>(trials);
    result.better += (rule > plain + 0.01) / static_cast<double>(trials);
  }
  const char* const verbose = std::getenv("ZEROTUNE_TEST_VERBOSE");
  if (verbose && *verbose)
    for (const auto& [name, t] : {std::pair("best of n", result.plain), {"the rule", result.rule}})
      std::printf(
          "%-28s %-10s true accuracy %.3f (best %.3f, untouched %.3f), untouched chosen "
          "%.2f, worse than untouched %.2f; rule worse %.2f, better %.2f\n",
          w.name, name, t.accuracy, t.best, w.untouched.accuracy(), t.untouched, t.harm,
          result.worse, result.better);
  return result;
}

constexpr int trials = 200;

// Nothing helps: every candidate is the untouched model but for noise, most of them a little worse.
// The mean accuracy is the same for both rules; harm is rarer, and so is luck.
TEST(choice_rule, keeps_the_untouched_model_where_nothing_helps) {
  const comparison_of_rules found = simulate({"nothing helps",
                                              {0.55, 0.95, 2},
                                              {0.52, 0.93, 2},
                                              {0.02, 0.03, 0},
                                              {0.54, 0.95, 2},
                                              {0.53, 0.95, 2}},
                                             trials);
  EXPECT_GT(found.rule.untouched, found.plain.untouched);
  EXPECT_NEAR(found.rule.accuracy, found.plain.accuracy, 0.005);
  EXPECT_LT(found.rule.harm, 0.75 * found.plain.harm);
}

// The descent brings 17 points and repairs the form of the answers: both rules must take it.
TEST(choice_rule, loses_little_where_much_is_to_be_had) {
  const comparison_of_rules found = simulate({"descent brings much",
                                              {0.55, 0.60, 2},
                                              {0.57, 0.55, 2},
                                              {0.04, 0.15, 0},
                                              {0.60, 0.85, 2},
                                              {0.72, 0.98, 2}},
                                             trials);
  EXPECT_LT(found.rule.untouched, 0.02);
  EXPECT_GT(found.rule.accuracy, found.plain.accuracy - 0.01);
  EXPECT_GT(found.rule.accuracy, 0.55 * 1.6 / 2 + 0.15);
}

// Nine points at best, most of which 128 rows can barely tell from noise among so many.
TEST(choice_rule, gives_up_part_of_a_small_gain) {
  const comparison_of_rules found = simulate({"descent brings little",
                                              {0.55, 0.90, 2},
                                              {0.53, 0.88, 2},
                                              {0.03, 0.05, 0},
                                              {0.55, 0.92, 2},
                                              {0.60, 0.95, 2}},
                                             trials);
  EXPECT_GT(found.rule.accuracy, found.plain.accuracy - 0.02);
  EXPECT_LT(found.rule.harm, 0.05);
}

// The form of the answers alone: the likelihood, which breaks ties, knows nothing of it.
TEST(choice_rule, takes_a_repair_of_the_form) {
  const comparison_of_rules found = simulate({"only the form is repaired",
                                              {0.60, 0.10, 2},
                                              {0.58, 0.15, 2},
                                              {0.03, 0.10, 0},
                                              {0.59, 0.60, 2},
                                              {0.60, 0.98, 2}},
                                             trials);
  EXPECT_LT(found.rule.untouched, 0.02);
  EXPECT_GT(found.rule.accuracy, found.plain.accuracy - 0.02);
}

}  // namespace
