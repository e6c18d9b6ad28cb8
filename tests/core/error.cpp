// SPDX-License-Identifier: Apache-2.0
#include "zerotune/core/error.hpp"

#include <gtest/gtest.h>

#include <string>

namespace {

TEST(error, of_a_caller_is_a_standard_invalid_argument) {
  static_assert(std::is_base_of_v<std::invalid_argument, zerotune::invalid_argument>);
  static_assert(std::is_base_of_v<std::runtime_error, zerotune::format_error>);
  static_assert(!std::is_base_of_v<zerotune::invalid_argument, zerotune::format_error>);
  try {
    throw zerotune::invalid_argument("attention: q dim 1 (num_heads): expected 2, got 3");
  } catch (const std::exception& e) {
    EXPECT_STREQ(e.what(), "attention: q dim 1 (num_heads): expected 2, got 3");
  }
}

TEST(error_handler, is_returned_by_the_next_one_and_restored_by_null) {
  const zerotune::error_handler mine = [](const char*) {};
  const zerotune::error_handler original = zerotune::set_error_handler(mine);
  EXPECT_NE(original, nullptr);  // there is always one
  EXPECT_EQ(zerotune::set_error_handler(nullptr), mine);
  EXPECT_EQ(zerotune::set_error_handler(original), original) << "null stands for the default";
}

}  // namespace
