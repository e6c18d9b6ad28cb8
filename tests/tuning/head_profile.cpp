// SPDX-License-Identifier: Apache-2.0
// Head profiles of a model whose heads' effects are known.
#include "zerotune/tuning/head_profile.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "support/errors.hpp"
#include "tuning/toy_host.hpp"

namespace {

using namespace zerotune;
using test::mentions;
using test::message_of;

static_assert(evaluator<test::toy_host>);
static_assert(!many_evaluator<test::toy_host>);
static_assert(!differentiable_evaluator<test::toy_host>);

TEST(head_profile, unit_tables_are_what_they_say) {
  const index_t unit = 2;
  EXPECT_EQ(unit_table(granularity::head_index, 3, 5, {&unit, 1}, 2),
            gamma_table::from(3, {5, {2}}, 2));
  EXPECT_EQ(unit_table(granularity::layer, 3, 5, {&unit, 1}, 2), gamma_table::from({3, {2}}, 5, 2));
  const index_t flat = 7;  // layer 1, head 2
  EXPECT_EQ(unit_table(granularity::head, 3, 5, {&flat, 1}, 2),
            gamma_table::from(3, 5, {{1, 2}}, 2));
  EXPECT_EQ(unit_count(granularity::head, 3, 5), 15);
}

TEST(head_profile, finds_up_and_down_effective_heads) {
  test::toy_host host = test::make_toy_host();
  const head_profile profile = profile_heads(host, test::all_rows(host), host.labels);
  ASSERT_EQ(profile.effect.size(), 5u);
  EXPECT_EQ(profile.forward_rows, host.rows_evaluated);
  EXPECT_EQ(profile.forward_rows, 6 * 40);
  EXPECT_EQ(direction(profile, 0), 0);
  EXPECT_EQ(direction(profile, 1), 1);
  EXPECT_EQ(direction(profile, 3), -1);
  EXPECT_EQ(direction(profile, 4), 1);
  EXPECT_EQ(count_of(profile, head_kind::up), 2);
  EXPECT_EQ(count_of(profile, head_kind::down), 1);
  EXPECT_EQ(dominant_kind(profile), head_kind::up);
  EXPECT_EQ(select_units(profile, head_kind::up, 0.4), (std::vector<index_t>{1, 4}));
  EXPECT_EQ(select_units(profile, head_kind::up, 0.2), (std::vector<index_t>{1}));
  EXPECT_EQ(select_units(profile, head_kind::down, 1.0), (std::vector<index_t>{3}));
}

TEST(head_profile, a_probe_below_one_says_the_same_of_the_heads) {
  test::toy_host host = test::make_toy_host();
  const head_profile profile =
      profile_heads(host, test::all_rows(host), host.labels, {.gamma = 0.5f});
  EXPECT_EQ(direction(profile, 1), 1);
  EXPECT_EQ(direction(profile, 3), -1);
  EXPECT_EQ(dominant_kind(profile), head_kind::up);
  EXPECT_EQ(select_units(profile, head_kind::up, 1.0), (std::vector<index_t>{1, 4}));
}

TEST(head_profile, works_per_layer_and_per_head) {
  test::toy_host host = test::make_toy_host();
  host.slope[1] = {0, 0, 0, -3, 0};
  const auto rows = test::all_rows(host);
  const head_profile layers = profile_heads(host, rows, host.labels, {.unit = granularity::layer});
  ASSERT_EQ(layers.effect.size(), 3u);
  EXPECT_EQ(direction(layers, 1), -1);
  const head_profile heads = profile_heads(host, rows, host.labels, {.unit = granularity::head});
  ASSERT_EQ(heads.effect.size(), 15u);
  EXPECT_EQ(select_units(heads, head_kind::down, 0.01), (std::vector<index_t>{8}));
}

// Accuracy moves in steps: between equal ones the likelihood of the answer decides.
TEST(head_profile, likelihood_breaks_ties) {
  test::toy_host host = test::make_toy_host();
  host.difficulty.assign(host.difficulty.size(), 5.0);  // every answer is right whatever happens
  const head_profile profile = profile_heads(host, test::all_rows(host), host.labels);
  EXPECT_EQ(profile.effect[1].value, 0);
  EXPECT_EQ(direction(profile, 1), 1);
  EXPECT_EQ(direction(profile, 3), -1);
}

TEST(head_profile, results_of_the_untouched_model_are_not_computed_again) {
  test::toy_host host = test::make_toy_host();
  const auto rows = test::all_rows(host);
  const auto untouched = host.evaluate(gamma_table(3, 5), rows, {}, {});
  host.rows_evaluated = 0;
  const head_profile profile = profile_heads(host, rows, host.labels, {}, {}, untouched);
  EXPECT_EQ(host.rows_evaluated, 5 * 40);
  EXPECT_EQ(profile.effect, profile_heads(host, rows, host.labels).effect);
}

TEST(head_profile, progress_counts_all_rows) {
  test::toy_host host = test::make_toy_host(10);
  index_t last = 0, total = 0;
  profile_heads(host, test::all_rows(host), host.labels, {}, [&](index_t done, index_t all) {
    EXPECT_EQ(done, last + 1);
    last = done;
    total = all;
  });
  EXPECT_EQ(last, 60);
  EXPECT_EQ(total, 60);
}

TEST(head_profile, random_units_are_a_seeded_selection) {
  const auto units = random_units(granularity::head, 3, 5, 6, 1);
  EXPECT_EQ(units.size(), 6u);
  EXPECT_TRUE(std::is_sorted(units.begin(), units.end()));
  EXPECT_EQ(units, random_units(granularity::head, 3, 5, 6, 1));
  EXPECT_NE(units, random_units(granularity::head, 3, 5, 6, 2));
}

TEST(head_profile, mistakes_are_named) {
  test::toy_host host = test::make_toy_host();
  const auto rows = test::all_rows(host);
  EXPECT_TRUE(mentions(message_of([&] { profile_heads(host, {}, host.labels); }), {"examples"}));
  host.labels[3] = no_label;
  EXPECT_TRUE(
      mentions(message_of([&] { profile_heads(host, rows, host.labels); }), {"labels[3]", "none"}));
  const head_profile profile;
  EXPECT_TRUE(mentions(message_of([&] { select_units(profile, head_kind::up, 0.0); }), {"share"}));
  EXPECT_TRUE(mentions(message_of([&] { random_units(granularity::layer, 3, 5, 4, 1); }), {"4"}));
  EXPECT_TRUE(mentions(message_of([&] { make_head_profile({}, 3, 5, {}, {}); }), {"5", "0"}));
  const std::vector<index_t> outside{40};
  EXPECT_TRUE(mentions(
      message_of([&] { measure_accuracies(std::vector<example_result>(1), outside, host.labels); }),
      {"examples", "40"}));
}

}  // namespace
