// SPDX-License-Identifier: Apache-2.0
// Gradients summed over units with their errors, and the agreement of two measures, on numbers that
// can be checked by hand.
#include "zerotune/head_gradients.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "support/errors.hpp"

namespace {

using namespace zerotune_cli;
using zerotune::granularity;

// Two examples, two layers of two heads.
const zerotune::example_gradients values{{1.0, 3.0}, {1, 2, 3, 4, /**/ 3, -6, 5, 0}};

TEST(head_gradients, are_means_with_errors) {
  const unit_gradients heads = group_gradients(values, granularity::head, 2, 2);
  EXPECT_EQ(heads.rows, 2);
  EXPECT_DOUBLE_EQ(heads.loss, 2.0);
  EXPECT_EQ(heads.effect, (std::vector<double>{-2, 2, -4, -2}));
  // |difference| / 2 is the standard error of the mean of two.
  EXPECT_EQ(heads.standard_error, (std::vector<double>{1, 4, 1, 2}));
  EXPECT_EQ(heads.direction(0), -1);
  EXPECT_EQ(heads.direction(1), 1);
}

TEST(head_gradients, sum_the_heads_of_a_unit_per_example) {
  const unit_gradients index = group_gradients(values, granularity::head_index, 2, 2);
  EXPECT_EQ(index.effect, (std::vector<double>{-6, 0}));  // 4, 8 and 6, -6
  EXPECT_EQ(index.standard_error, (std::vector<double>{2, 6}));
  EXPECT_EQ(index.direction(1), 0);
  const unit_gradients layers = group_gradients(values, granularity::layer, 2, 2);
  EXPECT_EQ(layers.effect, (std::vector<double>{0, -6}));  // 3, -3 and 7, 5
  EXPECT_EQ(layers.standard_error, (std::vector<double>{3, 1}));
}

TEST(head_gradients, are_a_profile_to_first_order) {
  const zerotune::head_profile profile =
      profile_of(group_gradients(values, granularity::head, 2, 2), 0.5f);
  ASSERT_EQ(profile.effect.size(), 4u);
  EXPECT_DOUBLE_EQ(profile.effect[1].value, 2 * std::log(0.5));
  EXPECT_EQ(zerotune::direction(profile, 1), 1);
  EXPECT_EQ(zerotune::direction(profile, 2), -1);
}

TEST(head_gradients, without_examples_are_refused) {
  EXPECT_TRUE(test::mentions(test::message_of([] { group_gradients({}, granularity::head, 2, 2); }),
                             {"examples"}));
}

TEST(agreement, looks_at_ranks_and_at_the_signs_of_the_strongest) {
  const std::vector<double> first{5, -4, 3, -2, 1, 0.5, 0.4, 0.3, 0.2, 0.1};
  const agreement same = compare_effects(first, first);
  EXPECT_DOUBLE_EQ(same.rank_correlation, 1.0);
  EXPECT_EQ(same.strongest, 2);
  EXPECT_DOUBLE_EQ(same.same_sign, 1.0);
  std::vector<double> second = first;
  second[1] = 4;   // among the two strongest
  second[5] = -9;  // not
  const agreement other = compare_effects(first, second);
  EXPECT_DOUBLE_EQ(other.same_sign, 0.5);
  EXPECT_LT(other.rank_correlation, 1.0);
  // Ranks 10 1 9 2 8 7 6 5 4 3 against 10 9 8 2 7 1 6 5 4 3: squared differences 102 of 990.
  EXPECT_NEAR(other.rank_correlation, 1.0 - 6.0 * 102.0 / 990.0, 1e-12);
}

}  // namespace
