// SPDX-License-Identifier: Apache-2.0
// The order of tables: neighbours share what it says, and the work is that of a tree of layers.
#include "zerotune/table_order.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace {

using namespace zerotune_cli;
using zerotune::gamma_table;
using zerotune::index_t;

std::vector<gamma_table> probes(index_t layers, index_t heads) {
  std::vector<gamma_table> tables{gamma_table(layers, heads)};
  for (index_t layer = 0; layer < layers; ++layer)
    for (index_t head = 0; head < heads; ++head) {
      tables.emplace_back(layers, heads);
      tables.back()(layer, head) = 2.0f;
    }
  return tables;
}

index_t equal_layers(const gamma_table& a, const gamma_table& b) {
  for (index_t layer = 0; layer < a.layers(); ++layer)
    for (index_t head = 0; head < a.heads(); ++head)
      if (a(layer, head) != b(layer, head)) return layer;
  return a.layers();
}

TEST(table_order, neighbours_share_what_it_says) {
  const std::vector<gamma_table> tables = probes(4, 3);
  const table_order order = order_tables(tables);
  std::vector<std::size_t> sorted = order.tables;
  std::ranges::sort(sorted);
  for (std::size_t i = 0; i < tables.size(); ++i) ASSERT_EQ(sorted[i], i);
  ASSERT_EQ(order.shared.size(), tables.size());
  EXPECT_EQ(order.shared[0], 0);
  for (std::size_t i = 1; i < tables.size(); ++i)
    EXPECT_EQ(order.shared[i], equal_layers(tables[order.tables[i - 1]], tables[order.tables[i]]));
}

// Every probe runs its own layer and those after it, every layer runs once untouched.
TEST(table_order, probing_every_head_costs_about_half) {
  const table_order order = order_tables(probes(30, 9));
  EXPECT_DOUBLE_EQ(order.work, (9.0 * 30 * 31 / 2 + 30) / (271.0 * 30));
}

TEST(table_order, equal_tables_share_everything) {
  const std::vector<gamma_table> tables(3, gamma_table(5, 2, 0.5f));
  const table_order order = order_tables(tables);
  EXPECT_EQ(order.shared, (std::vector<int>{0, 5, 5}));
  EXPECT_DOUBLE_EQ(order.work, 1.0 / 3.0);
}

TEST(table_order, tables_that_differ_from_the_start_share_nothing) {
  const std::vector<gamma_table> tables{gamma_table(5, 2, 0.5f), gamma_table(5, 2, 2.0f)};
  EXPECT_DOUBLE_EQ(order_tables(tables).work, 1.0);
  EXPECT_TRUE(order_tables({}).tables.empty());
}

}  // namespace
