// SPDX-License-Identifier: Apache-2.0
// Losses over choices against their definitions, slopes against central differences.
#include "zerotune/losses.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace {

using namespace zerotune_cli;
using zerotune::loss_weights;

const std::vector<double> loglik{-2.5, -0.75, -4.0, -1.25};

double value(const loss_weights& weights, std::vector<double> at, index_t label) {
  double sum = 0, entropy = 0;
  for (const double each : at) sum += std::exp(each);
  for (const double each : at) entropy -= std::exp(each) / sum * std::log(std::exp(each) / sum);
  const double right = at[static_cast<std::size_t>(label)];
  return -weights.choices * std::log(std::exp(right) / sum) - weights.vocabulary * right +
         weights.choice_entropy * entropy;
}

TEST(losses, are_their_definitions_and_slopes) {
  for (const loss_weights& weights :
       {loss_weights{}, loss_weights{.choices = 0, .vocabulary = 1},
        loss_weights{.choices = 0, .choice_entropy = 1},
        loss_weights{.choices = 0.5, .vocabulary = 0.25, .entropy = 9, .choice_entropy = -2}})
    for (const index_t label : {0, 1, 3}) {
      const choice_loss found = loss_of_choices(weights, loglik, label);
      EXPECT_NEAR(found.value, value(weights, loglik, label), 1e-12);
      for (std::size_t c = 0; c < loglik.size(); ++c) {
        std::vector<double> above = loglik, below = loglik;
        above[c] += 1e-4;
        below[c] -= 1e-4;
        const double slope = (value(weights, above, label) - value(weights, below, label)) / 2e-4;
        EXPECT_NEAR(found.slope[c], slope, 1e-7) << "choice " << c;
      }
    }
}

TEST(losses, stay_finite_far_out) {
  const std::vector<double> far{-1500.0, -10.0, -900.0};
  const choice_loss found =
      loss_of_choices({.choices = 1, .vocabulary = 0, .choice_entropy = 1}, far, 0);
  EXPECT_DOUBLE_EQ(found.value, 1490.0);
  EXPECT_DOUBLE_EQ(found.slope[0], -1.0);
  EXPECT_DOUBLE_EQ(found.slope[1], 1.0);
  EXPECT_DOUBLE_EQ(found.slope[2], 0.0);
}

TEST(losses, one_choice_leaves_nothing_to_choose) {
  const std::vector<double> one{-3.0};
  const choice_loss found = loss_of_choices({.choices = 1, .choice_entropy = 1}, one, 0);
  EXPECT_DOUBLE_EQ(found.value, 0.0);
  EXPECT_DOUBLE_EQ(found.slope[0], 0.0);
}

TEST(losses, say_what_they_need) {
  EXPECT_TRUE(needs_all_choices({}));
  EXPECT_FALSE(needs_all_choices({.choices = 0, .vocabulary = 1}));
  EXPECT_TRUE(needs_all_choices({.choices = 0, .choice_entropy = 1}));
  EXPECT_FALSE(needs_all_choices({.choices = 0, .entropy = 1}));
}

}  // namespace
