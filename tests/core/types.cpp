// SPDX-License-Identifier: Apache-2.0
#include "zerotune/core/types.hpp"

#include <gtest/gtest.h>

namespace {

using zerotune::hull;
using zerotune::index_t;
using zerotune::intersect;
using zerotune::range;

TEST(range, is_empty_when_its_end_is_not_beyond_its_begin) {
  EXPECT_TRUE(range{}.empty());
  EXPECT_TRUE((range{3, 3}.empty()));
  EXPECT_TRUE((range{5, 3}.empty()));
  EXPECT_EQ((range{5, 3}.size()), 0);  // never negative: sizes are summed
  EXPECT_EQ((range{-2, 3}.size()), 5);
}

TEST(range, contains_its_begin_and_not_its_end) {
  const range r{2, 5};
  EXPECT_FALSE(r.contains(1));
  EXPECT_TRUE(r.contains(2));
  EXPECT_TRUE(r.contains(4));
  EXPECT_FALSE(r.contains(5));
  EXPECT_TRUE(r.contains(range{9, 9}));  // the empty range lies in every range
  EXPECT_TRUE(r.contains(range{2, 5}));
  EXPECT_FALSE(r.contains(range{2, 6}));
}

TEST(range, intersection_and_hull_agree_with_membership) {
  for (index_t a = -2; a < 4; ++a)
    for (index_t b = -2; b < 4; ++b)
      for (index_t c = -2; c < 4; ++c)
        for (index_t d = -2; d < 4; ++d) {
          const range first{a, b}, second{c, d};
          const range both = intersect(first, second), around = hull(first, second);
          for (index_t i = -3; i < 5; ++i) {
            ASSERT_EQ(both.contains(i), first.contains(i) && second.contains(i));
            ASSERT_TRUE(around.contains(i) || (!first.contains(i) && !second.contains(i)));
          }
          ASSERT_TRUE(!first.empty() || around.size() == second.size());
          ASSERT_TRUE(!second.empty() || around.size() == first.size());
        }
}

TEST(everywhere, holds_every_position_with_room_for_arithmetic) {
  static_assert(zerotune::everywhere.contains(index_t{1} << 61));
  static_assert(zerotune::everywhere.contains(-(index_t{1} << 61)));
  EXPECT_GT(zerotune::everywhere.size(), 0);  // the size itself must not overflow
}

TEST(element, is_one_of_four_types) {
  static_assert(zerotune::element<float> && zerotune::element<double>);
  static_assert(zerotune::element<zerotune::float16> && zerotune::element<zerotune::bfloat16>);
  static_assert(!zerotune::element<int> && !zerotune::element<const float>);
  static_assert(std::is_same_v<zerotune::accumulator_t<double>, double>);
  static_assert(std::is_same_v<zerotune::accumulator_t<zerotune::float16>, float>);
  SUCCEED();
}

TEST(head_of, passes_as_a_head_to_a_modifier_that_takes_an_int) {
  const zerotune::head_of head{7, 3};
  const int number = head;
  EXPECT_EQ(number, 3);
}

}  // namespace
