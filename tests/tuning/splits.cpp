// SPDX-License-Identifier: Apache-2.0
// Splits: disjoint, stratified, the same for the same seed.
#include "zerotune/tuning/splits.hpp"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "support/errors.hpp"

namespace {

using namespace zerotune;
using test::mentions;
using test::message_of;

std::vector<index_t> some_labels(index_t rows, index_t classes) {
  std::vector<index_t> labels;
  for (index_t i = 0; i < rows; ++i) labels.push_back(i % classes);
  return labels;
}

TEST(splits, are_disjoint_and_of_the_sizes_asked_for) {
  const std::vector<index_t> labels = some_labels(440, 4);
  const data_splits splits = make_splits(labels, {64, 128, 200}, 7);
  EXPECT_EQ(splits.profile.size(), 64u);
  EXPECT_EQ(splits.search.size(), 128u);
  EXPECT_EQ(splits.test.size(), 200u);
  std::set<index_t> seen;
  for (const auto* part : {&splits.profile, &splits.search, &splits.test})
    for (const index_t row : *part) {
      EXPECT_TRUE(row >= 0 && row < 440);
      EXPECT_TRUE(seen.insert(row).second) << row;
    }
}

TEST(splits, every_stretch_is_balanced) {
  std::vector<index_t> labels(300, 0);  // 200 of label 0, 100 of label 1
  for (std::size_t i = 0; i < 100; ++i) labels[3 * i] = 1;
  const data_splits splits = make_splits(labels, {60, 90, 150}, 3);
  for (const auto* part : {&splits.profile, &splits.search, &splits.test}) {
    double ones = 0;
    for (const index_t row : *part) ones += labels[static_cast<std::size_t>(row)] == 1;
    EXPECT_NEAR(ones, static_cast<double>(part->size()) / 3, 1.0);
  }
}

TEST(splits, depend_on_the_seed_alone) {
  const std::vector<index_t> labels = some_labels(100, 2);
  EXPECT_EQ(stratified_order(labels, 1), stratified_order(labels, 1));
  EXPECT_NE(stratified_order(labels, 1), stratified_order(labels, 2));
}

// The generator is the library's own: this order must never change, on any machine.
TEST(splits, random_source_is_splitmix64) {
  random_source random(1234567);
  EXPECT_EQ(random.next(), 6457827717110365317ull);
  EXPECT_EQ(random.next(), 3203168211198807973ull);
  EXPECT_EQ(random.next(), 9817491932198370423ull);
}

TEST(splits, unlabelled_rows_are_a_class_of_their_own) {
  const std::vector<index_t> labels(10, no_label);
  EXPECT_EQ(make_splits(labels, {2, 3, 5}, 1).test.size(), 5u);
}

TEST(splits, too_few_rows_is_an_error_that_counts_them) {
  const std::vector<index_t> labels = some_labels(100, 2);
  EXPECT_TRUE(mentions(message_of([&] {
                         make_splits(labels, {64, 128, 200}, 1);
                       }),
                       {"make_splits", "64 + 128 + 200", "100"}));
  EXPECT_TRUE(mentions(message_of([&] { make_splits(labels, {-1, 0, 0}, 1); }), {"profile", "-1"}));
  EXPECT_EQ(make_splits(labels, {0, 0, 0}, 1).test.size(), 0u);
  EXPECT_EQ(make_splits(labels, {20, 30, 50}, 1).test.size(), 50u);
}

}  // namespace
