// SPDX-License-Identifier: Apache-2.0
// Statistics against SciPy's and statsmodels' values (tests/references/statistics.json).
#include "zerotune/tuning/statistics.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "support/errors.hpp"
#include "zerotune/tuning/json.hpp"

namespace {

using namespace zerotune;
using test::mentions;
using test::message_of;

const nlohmann::json& reference() {
  static const nlohmann::json values = [] {
    std::ifstream file(std::string(ZEROTUNE_TESTS_DIR) + "/references/statistics.json");
    return nlohmann::json::parse(file);
  }();
  return values;
}

TEST(statistics, mcnemar_equals_the_exact_binomial) {
  for (const auto& c : reference().at("mcnemar").at("cases")) {
    const double expected = c.at("p");
    // Sums of up to 10^4 logarithms: their rounding is what the tolerance is for.
    EXPECT_NEAR(mcnemar_exact(c.at("b"), c.at("c")), expected, 1e-10 * expected) << c;
  }
}

TEST(statistics, holm_equals_the_reference) {
  for (const auto& c : reference().at("holm").at("cases")) {
    const std::vector<double> p = c.at("p"), expected = c.at("adjusted");
    const std::vector<double> adjusted = holm_adjust(p);
    ASSERT_EQ(adjusted.size(), expected.size());
    for (std::size_t i = 0; i < p.size(); ++i) EXPECT_NEAR(adjusted[i], expected[i], 1e-15) << c;
  }
}

TEST(statistics, spearman_equals_the_reference) {
  for (const auto& c : reference().at("spearman").at("cases")) {
    const std::vector<double> x = c.at("x"), y = c.at("y");
    EXPECT_NEAR(spearman(x, y), c.at("rho").get<double>(), 1e-14) << c;
  }
  EXPECT_EQ(spearman(std::vector<double>{1, 1}, std::vector<double>{1, 2}), 0.0);
}

TEST(statistics, calibration_equals_the_reference) {
  const auto& calibration = reference().at("calibration");
  for (const auto& c : calibration.at("cases")) {
    const std::vector<std::vector<double>> p = c.at("probabilities");
    const std::vector<index_t> labels = c.at("labels");
    EXPECT_NEAR(brier_score(p, labels), c.at("brier").get<double>(), 1e-14) << c;
    EXPECT_NEAR(calibration_error(p, labels, calibration.at("bins")),
                c.at("calibration_error").get<double>(), 1e-14)
        << c;
  }
}

// Wilson (1927) for 15 of 50 and 0 of 10 at 95%, by hand from the formula.
TEST(statistics, wilson_interval_equals_the_formula) {
  const interval some = wilson_interval(15, 50);
  EXPECT_NEAR(some.low, 0.1910, 5e-5);
  EXPECT_NEAR(some.high, 0.4375, 5e-5);
  const interval none = wilson_interval(0, 10);
  EXPECT_EQ(none.low, 0.0);
  EXPECT_NEAR(none.high, 0.2775, 5e-5);
  EXPECT_EQ(wilson_interval(10, 10).high, 1.0);
}

TEST(statistics, bootstrap_covers_the_normal_interval) {
  std::vector<double> values;
  for (int i = 0; i < 400; ++i) values.push_back(i % 4 == 0 ? 1.0 : 0.0);
  const interval bounds = bootstrap_mean(values);
  const double error = std::sqrt(0.25 * 0.75 / 400);
  EXPECT_NEAR(bounds.low, 0.25 - 1.96 * error, 0.006);
  EXPECT_NEAR(bounds.high, 0.25 + 1.96 * error, 0.006);
  EXPECT_EQ(bounds, bootstrap_mean(values));
  EXPECT_NE(bounds, bootstrap_mean(values, {.seed = 2}));
}

TEST(statistics, bootstrap_is_paired) {
  std::vector<double> before, after;
  for (int i = 0; i < 100; ++i) {
    before.push_back(i % 10);
    after.push_back(i % 10 + 1);
  }
  EXPECT_EQ(paired_bootstrap(before, after), (interval{1, 1}));
  EXPECT_EQ(paired_bootstrap(before, before), (interval{0, 0}));
}

TEST(statistics, mistakes_are_named) {
  const std::vector<double> one{0.5}, two{0.5, 0.5};
  const std::vector<std::vector<double>> rows{{0.5, 0.5}};
  EXPECT_TRUE(mentions(message_of([&] { bootstrap_mean({}); }), {"values"}));
  EXPECT_TRUE(mentions(message_of([&] { bootstrap_mean(one, {.resamples = 0}); }), {"resamples"}));
  EXPECT_TRUE(
      mentions(message_of([&] { bootstrap_mean(one, {.confidence = 1}); }), {"confidence"}));
  EXPECT_TRUE(mentions(message_of([&] { paired_bootstrap(one, two); }), {"after", "1", "2"}));
  EXPECT_TRUE(mentions(message_of([] { mcnemar_exact(1, -1); }), {"c", "-1"}));
  EXPECT_TRUE(mentions(message_of([] { wilson_interval(0, 0); }), {"trials"}));
  EXPECT_TRUE(mentions(message_of([] { wilson_interval(3, 2); }), {"successes", "3"}));
  EXPECT_TRUE(mentions(message_of([&] { spearman(one, two); }), {"y dim 0"}));
  EXPECT_TRUE(mentions(message_of([&] { spearman(one, one); }), {"at least 2"}));
  EXPECT_TRUE(mentions(message_of([&] { brier_score(rows, std::vector<index_t>{2}); }),
                       {"labels[0]", "2"}));
  EXPECT_TRUE(mentions(message_of([&] { brier_score(rows, {}); }), {"labels dim 0"}));
  EXPECT_TRUE(
      mentions(message_of([&] { calibration_error(rows, std::vector<index_t>{0}, 0); }), {"bins"}));
  for (const double none : {std::nan(""), 1.5, -0.5, HUGE_VAL}) {
    const std::vector<std::vector<double>> wrong{{0.5, 0.5}, {none, none}};
    EXPECT_TRUE(mentions(message_of([&] {
                           calibration_error(wrong, std::vector<index_t>{0, 0});
                         }),
                         {"probabilities[1][0]", "[0, 1]"}))
        << none;
  }
}

TEST(statistics, choices_that_are_all_impossible_are_alike) {
  const std::vector<double> none(4, -HUGE_VAL);
  EXPECT_EQ(choice_probabilities(none), std::vector<double>(4, 0.25));
  EXPECT_NEAR(choice_entropy(none), std::log(4.0), 1e-15);
}

}  // namespace
