// SPDX-License-Identifier: Apache-2.0
// Gradient profiles: means and standard errors, and what they say of units.
#include "zerotune/tuning/gradient_profile.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "support/errors.hpp"
#include "tuning/linear_host.hpp"
#include "zerotune/tuning/loss.hpp"

namespace {

using namespace zerotune;
using test::mentions;
using test::message_of;

static_assert(differentiable_evaluator<test::linear_host>);

// 1, 2 and 6: mean 3, sample deviation sqrt(7), standard error sqrt(7 / 3).
TEST(gradient_profile, is_mean_and_standard_error) {
  const example_gradients values{{1, 2, 3}, {1, -4, 2, -4, 6, -4}};
  const gradient_profile profile = make_gradient_profile(values, 1, 2);
  EXPECT_EQ(profile.rows, 3);
  EXPECT_DOUBLE_EQ(profile.loss, 2);
  EXPECT_DOUBLE_EQ(profile.mean[0], 3);
  EXPECT_DOUBLE_EQ(profile.mean[1], -4);
  EXPECT_DOUBLE_EQ(profile.standard_error[0], std::sqrt(7.0 / 3));
  EXPECT_EQ(profile.standard_error[1], 0);
  EXPECT_EQ(make_gradient_profile({{1}, {5}}, 1, 1).standard_error[0], 0);
}

// The toy model's own derivative, and the library's loss on its answers, by central differences.
TEST(gradient_profile, equals_differences_of_the_measured_loss) {
  test::linear_host host = test::make_linear_host();
  const auto rows = test::rows_between(0, 60);
  for (const loss_weights& loss :
       {loss_weights{1, 0, 0, 0}, loss_weights{0, 1, 0, 0}, loss_weights{0, 0, 1, 0},
        loss_weights{0, 0, 0, 1}, loss_weights{0.5, 2, 0.25, 3}}) {
    const gradient_profile profile = profile_gradient(host, rows, loss);
    const auto loss_at = [&](index_t unit, double log_gamma) {
      const float gamma = static_cast<float>(std::exp(log_gamma));
      const auto answers =
          host.evaluate(unit_table(granularity::head, 2, 3, {&unit, 1}, gamma), rows, {}, {});
      return mean_loss(loss, answers, rows, host.labels);
    };
    EXPECT_NEAR(profile.loss, loss_at(0, 0), 1e-12);
    for (index_t unit = 0; unit < 6; ++unit) {
      const double step = 0.01;
      const double slope = (loss_at(unit, step) - loss_at(unit, -step)) / (2 * step);
      // Third derivatives are below 1, and gamma is a float: 6e-8 of 1 over the step.
      EXPECT_NEAR(profile.mean[static_cast<std::size_t>(unit)], slope, 5e-5) << unit;
    }
  }
}

TEST(gradient_profile, first_order_profile_sums_over_units) {
  const example_gradients values{{1}, {1, 2, 3, 4, 5, 6}};
  const gradient_profile gradient = make_gradient_profile(values, 2, 3);
  const double change = std::log(2.0);
  const head_profile heads = first_order_profile(gradient, granularity::head_index);
  ASSERT_EQ(heads.effect.size(), 3u);
  EXPECT_DOUBLE_EQ(heads.effect[1].value, -7 * change);
  EXPECT_EQ(direction(heads, 1), -1);
  const head_profile layers = first_order_profile(gradient, granularity::layer, 0.5f);
  ASSERT_EQ(layers.effect.size(), 2u);
  EXPECT_DOUBLE_EQ(layers.effect[1].value, 15 * change);
  EXPECT_EQ(direction(layers, 1), -1);
  const head_profile all = first_order_profile(gradient, granularity::head);
  EXPECT_DOUBLE_EQ(all.effect[4].value, -5 * change);
}

TEST(gradient_profile, finds_the_heads_that_act) {
  test::linear_host host = test::make_linear_host();
  const gradient_profile profile =
      profile_gradient(host, test::rows_between(0, 60), {.choices = 1, .vocabulary = 1});
  for (const std::size_t unit : {1u, 3u})
    EXPECT_LT(profile.mean[unit], -3 * profile.standard_error[unit]) << unit;
  EXPECT_GT(profile.mean[5], 3 * profile.standard_error[5]);
}

TEST(gradient_profile, mistakes_are_named) {
  EXPECT_TRUE(mentions(message_of([] { make_gradient_profile({}, 1, 1); }), {"examples"}));
  EXPECT_TRUE(mentions(message_of([] {
                         make_gradient_profile({{1}, {1, 2}}, 1, 1);
                       }),
                       {"gradient dim 0", "1", "2"}));
  test::linear_host host = test::make_linear_host();
  EXPECT_TRUE(mentions(message_of([&] { profile_gradient(host, {}, {}); }), {"examples"}));
  const gradient_profile profile = make_gradient_profile({{1}, {1}}, 1, 1);
  EXPECT_TRUE(mentions(message_of([&] { first_order_profile(profile, granularity::head, 0.0f); }),
                       {"gamma"}));
}

TEST(loss, mistakes_are_named) {
  const std::vector<example_result> results{{.predicted = 0, .loglik = {0, -1}}};
  const std::vector<index_t> rows{0}, labels{2}, none{no_label};
  EXPECT_TRUE(mentions(message_of([&] { mean_loss({}, results, rows, labels); }),
                       {"mean_loss", "labels[0]", "2"}));
  EXPECT_TRUE(mentions(message_of([&] { mean_loss({}, results, rows, none); }), {"none"}));
  EXPECT_EQ(mean_loss({0, 0, 1, 0}, results, rows, none), 0);
  EXPECT_FALSE(is_supervised(loss_weights{0, 0, 1, 1}));
  EXPECT_TRUE(needed_for(loss_weights{0, 0, 1, 0}).entropy);
  EXPECT_FALSE(needed_for(loss_weights{0, 0, 1, 0}).loglik);
}

}  // namespace
