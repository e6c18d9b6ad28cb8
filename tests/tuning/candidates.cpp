// SPDX-License-Identifier: Apache-2.0
// Candidates are the tables that they say, each once.
#include "zerotune/tuning/candidates.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "support/errors.hpp"

namespace {

using namespace zerotune;
using test::mentions;
using test::message_of;

gradient_profile profile_of(std::vector<double> mean, index_t layers, index_t heads) {
  return {layers, heads, 2, 1, mean, std::vector<double>(mean.size(), 0.1)};
}

TEST(candidates, a_grid_is_sorted_and_leaves_out_one) {
  const std::vector<index_t> units{1};
  const auto grid =
      grid_candidates("uniform", granularity::head_index, 2, 3, units, {2, 1, 0.5f, 2});
  ASSERT_EQ(grid.size(), 2u);
  EXPECT_EQ(grid[0].gamma, gamma_table::from(2, {3, {1}}, 0.5f));
  EXPECT_EQ(grid[0].detail, "gamma 0.5");
  EXPECT_EQ(grid[1].factor, 2.0f);
  EXPECT_TRUE(grid_candidates("paper", granularity::head, 2, 3, {}, {2}).empty());
  EXPECT_TRUE(mentions(message_of([&] {
                         grid_candidates("uniform", granularity::head, 2, 3, units, {1, -2});
                       }),
                       {"grid[1]", "-2"}));
}

TEST(candidates, strength_is_the_root_mean_square_of_log_gamma) {
  EXPECT_EQ(strength_of(gamma_table(2, 3)), 0);
  EXPECT_NEAR(strength_of(gamma_table(2, 3, 0.25f)), std::log(4.0), 1e-12);
  EXPECT_NEAR(strength_of(gamma_table::from(2, 2, {{0, 0}}, 4.0f)), std::log(4.0) / 2, 1e-12);
  EXPECT_GT(strength_of(gamma_table(1, 1, 0.0f)), strength_of(gamma_table(1, 1, 1e-30f)));
}

TEST(candidates, strongest_heads_go_by_size_and_direction) {
  const gradient_profile profile = profile_of({-1, 4, 0, -3, 2, -3}, 2, 3);
  EXPECT_EQ(strongest_heads(profile, head_choice::both, 0.5), (std::vector<index_t>{1, 3, 5}));
  EXPECT_EQ(strongest_heads(profile, head_choice::up, 1), (std::vector<index_t>{3, 5, 0}));
  EXPECT_EQ(strongest_heads(profile, head_choice::down, 0.01), (std::vector<index_t>{1}));
}

TEST(candidates, gradient_select_scales_each_head_in_its_direction) {
  const auto tables = gradient_select_candidates(profile_of({-1, 4, 0, -3, 2, -3}, 2, 3),
                                                 {.shares = {0.5}, .strengths = {2}});
  ASSERT_EQ(tables.size(), 3u);
  EXPECT_EQ(tables[0].gamma, gamma_table::from(2, 3, {{0, 0}, {1, 0}, {1, 2}}, 2.0f));
  EXPECT_EQ(tables[0].detail, "share 0.5, up, strength 2");
  EXPECT_EQ(tables[1].gamma, gamma_table::from(2, 3, {{0, 1}, {1, 1}}, 0.5f));
  gamma_table both = gamma_table::from(2, 3, {{1, 0}, {1, 2}}, 2.0f);
  both(0, 1) = 0.5f;
  EXPECT_EQ(tables[2].gamma, both);
  EXPECT_FALSE(tables[2].factor);
}

TEST(candidates, equal_tables_and_untouched_ones_are_left_out) {
  // No head is down-effective, so "both" is "up" and "down" is nothing.
  EXPECT_EQ(
      gradient_select_candidates(profile_of({-1, -2}, 1, 2), {.shares = {1}, .strengths = {2}})
          .size(),
      1u);
  EXPECT_TRUE(gradient_select_candidates(profile_of({0, 0}, 1, 2)).empty());
}

TEST(candidates, a_control_has_the_same_gammas_on_other_heads) {
  gamma_table table(3, 4);
  for (index_t i = 0; i < 12; ++i) table(i / 4, i % 4) = 1.0f + static_cast<float>(i);
  const gamma_table control = shuffled_heads(table, 1);
  EXPECT_NE(control, table);
  EXPECT_EQ(control, shuffled_heads(table, 1));
  EXPECT_NE(control, shuffled_heads(table, 2));
  std::vector<float> values(control.values().begin(), control.values().end());
  std::sort(values.begin(), values.end());
  EXPECT_EQ(values, std::vector<float>(table.values().begin(), table.values().end()));
}

TEST(candidates, mistakes_are_named) {
  const gradient_profile profile = profile_of({-1, -2}, 1, 2);
  for (const float bad : {1.0f, 0.5f, std::nanf("")})
    EXPECT_TRUE(mentions(message_of([&] {
                           gradient_select_candidates(profile, {.strengths = {2, bad}});
                         }),
                         {"strengths[1]"}));
  for (const double bad : {0.0, 1.5, std::nan("")})
    EXPECT_TRUE(mentions(
        message_of([&] { gradient_select_candidates(profile, {.shares = {bad}}); }), {"share"}));
}

}  // namespace
