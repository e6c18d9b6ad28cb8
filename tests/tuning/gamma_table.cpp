// SPDX-License-Identifier: Apache-2.0
// gamma_table: what is chosen gets the factor, everything else 1, and mistakes name their field.
#include "zerotune/tuning/gamma_table.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <type_traits>
#include <vector>

#include "support/errors.hpp"
#include "zerotune/policy/initial_token.hpp"

namespace {

using namespace zerotune;
using test::mentions;
using test::message_of;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

TEST(gamma_table, begins_with_one_value_everywhere) {
  const gamma_table ones(3, 4);
  EXPECT_TRUE(ones.is_identity());
  const gamma_table table(3, 4, 2.5f);
  EXPECT_EQ(table.layers(), 3);
  EXPECT_EQ(table.heads(), 4);
  for (const float value : table.values()) EXPECT_EQ(value, 2.5f);
  EXPECT_FALSE(table.is_identity());
  EXPECT_TRUE(gamma_table().empty());
}

TEST(gamma_table, from_scales_chosen_heads_of_chosen_layers) {
  const gamma_table table = gamma_table::from({4, {1, 3}}, {3, {0, 2}}, 2.0f);
  for (index_t layer = 0; layer < 4; ++layer)
    for (index_t head = 0; head < 3; ++head)
      EXPECT_EQ(table(layer, head), layer % 2 == 1 && head != 1 ? 2.0f : 1.0f);
}

TEST(gamma_table, a_plain_count_chooses_all) {
  EXPECT_EQ(gamma_table::from(4, 3, 0.5f), gamma_table(4, 3, 0.5f));
  EXPECT_EQ(gamma_table::from(4, {3, {}}, 0.5f), gamma_table(4, 3));
}

TEST(gamma_table, from_takes_pairs) {
  const gamma_table table = gamma_table::from(2, 2, {{0, 1}, {1, 0}}, 0.0f);
  EXPECT_EQ(table(0, 0), 1.0f);
  EXPECT_EQ(table(0, 1), 0.0f);
  EXPECT_EQ(table(1, 0), 0.0f);
  EXPECT_EQ(table(1, 1), 1.0f);
}

TEST(gamma_table, row_is_what_initial_token_takes) {
  const gamma_table table = gamma_table::from({2, {1}}, {3, {2}}, 4.0f);
  const initial_token sink{table.row(1)};
  EXPECT_EQ(sink.gamma(0), 1.0f);
  EXPECT_EQ(sink.gamma(2), 4.0f);
  static_assert(std::is_same_v<decltype(table.row(0)), tensor_view<const float, 1>>);
  EXPECT_EQ(table.row(0).extent(0), 3);
}

template <class Table>
concept has_row = requires(Table&& table) {
  static_cast<Table&&>(table).row(0);
};

TEST(gamma_table, row_of_one_about_to_end_does_not_compile) {
  EXPECT_TRUE(has_row<gamma_table&>);
  EXPECT_TRUE(has_row<const gamma_table&>);
  EXPECT_FALSE(has_row<gamma_table>);
  EXPECT_FALSE(has_row<const gamma_table>);
}

TEST(gamma_table, equality_is_of_shape_and_values) {
  EXPECT_EQ(gamma_table(2, 3), gamma_table(2, 3));
  EXPECT_NE(gamma_table(2, 3), gamma_table(3, 2));
  gamma_table other(2, 3);
  other(1, 2) = 1.5f;
  EXPECT_NE(other, gamma_table(2, 3));
}

TEST(gamma_table, mistakes_name_their_field) {
  EXPECT_TRUE(mentions(message_of([] { gamma_table(-1, 2); }), {"gamma_table", "layers", "-1"}));
  EXPECT_TRUE(mentions(message_of([] { gamma_table(1, -2); }), {"heads", "-2"}));
  for (const float bad : {-1.0f, nan, infinity, -infinity})
    EXPECT_TRUE(mentions(message_of([&] { gamma_table(1, 1, bad); }), {"value"}));
  EXPECT_TRUE(mentions(message_of([] {
                         gamma_table::from({2, {2}}, 3, 2.0f);
                       }),
                       {"gamma_table::from", "layers[0]", "[0, 2)", "2"}));
  EXPECT_TRUE(mentions(message_of([] {
                         gamma_table::from(2, {3, {0, -1}}, 2.0f);
                       }),
                       {"heads[1]", "-1"}));
  EXPECT_TRUE(mentions(message_of([] {
                         gamma_table::from(2, {3, {1, 0, 1}}, 2.0f);
                       }),
                       {"heads[2]", "not given before"}));
  EXPECT_TRUE(mentions(message_of([] { gamma_table::from(2, 3, nan); }), {"factor"}));
  EXPECT_TRUE(mentions(message_of([] {
                         gamma_table::from(2, 2, {{0, 2}}, 2.0f);
                       }),
                       {"pairs[0].head", "2"}));
  EXPECT_TRUE(mentions(message_of([] {
                         gamma_table::from(2, 2, {{0, 0}, {2, 0}}, 2.0f);
                       }),
                       {"pairs[1].layer", "2"}));
  EXPECT_TRUE(mentions(message_of([] {
                         gamma_table::from(2, 2, {{1, 0}, {1, 0}}, 2.0f);
                       }),
                       {"pairs[1]", "not given before"}));
  const gamma_table table(2, 2);
  EXPECT_TRUE(mentions(message_of([&] { (void)table.row(2); }), {"gamma_table::row", "layer"}));
}

TEST(gamma_table, validate_finds_what_was_written) {
  gamma_table table(2, 2);
  EXPECT_EQ(message_of([&] { table.validate(); }), "");
  table(1, 0) = -0.5f;
  EXPECT_TRUE(mentions(message_of([&] { table.validate("f"); }), {"f: ", "gamma[1][0]", "-0.5"}));
  table(1, 0) = 1e38f;
  EXPECT_EQ(message_of([&] { table.validate(); }), "");
}

}  // namespace
