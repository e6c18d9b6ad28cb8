// SPDX-License-Identifier: Apache-2.0
#include "llama/kv_cache.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

namespace {

using llama::kv_cache;

/// Writes rows that tell layer and position, and commits them.
void append(kv_cache& cache, const std::vector<int>& tokens) {
  const std::int64_t first = cache.length();
  cache.reserve(first + static_cast<std::int64_t>(tokens.size()));
  for (int layer = 0; layer < cache.num_layers(); ++layer)
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const std::int64_t position = first + static_cast<std::int64_t>(i);
      for (int j = 0; j < cache.num_kv_heads() * cache.head_dim(); ++j) {
        const float value = static_cast<float>(layer * 10000 + tokens[i] * 100 + j);
        cache.key_row(layer, position)[j] = value;
        cache.value_row(layer, position)[j] = -value;
      }
    }
  cache.commit(tokens);
}

void expect_holds(const kv_cache& cache, const std::vector<int>& tokens) {
  ASSERT_TRUE(std::ranges::equal(cache.tokens(), tokens));
  for (int layer = 0; layer < cache.num_layers(); ++layer) {
    const kv_cache::view k = cache.keys(layer, cache.length());
    const kv_cache::view v = cache.values(layer, cache.length());
    for (std::size_t i = 0; i < tokens.size(); ++i)
      for (int h = 0; h < cache.num_kv_heads(); ++h)
        for (int d = 0; d < cache.head_dim(); ++d) {
          const float value =
              static_cast<float>(layer * 10000 + tokens[i] * 100 + h * cache.head_dim() + d);
          ASSERT_EQ(k(0, h, i, d), value);
          ASSERT_EQ(v(0, h, i, d), -value);
        }
  }
}

TEST(KvCache, KeepsItsRowsWhenItGrows) {
  kv_cache cache(3, 2, 4);
  EXPECT_EQ(cache.length(), 0);
  EXPECT_EQ(cache.capacity(), 0);
  std::vector<int> all;
  for (int i = 0; i < 90; ++i) {
    append(cache, {i % 50});
    all.push_back(i % 50);
  }
  expect_holds(cache, all);
}

TEST(KvCache, GrowsGeometrically) {
  kv_cache cache(1, 1, 1);
  int moves = 0;
  for (int i = 0; i < 10000; ++i) {
    const auto before = cache.capacity();
    append(cache, {1});
    moves += cache.capacity() != before;
  }
  EXPECT_LE(moves, 20);
}

TEST(KvCache, TruncateForgetsAndKeepsTheMemory) {
  kv_cache cache(2, 2, 4);
  append(cache, {1, 2, 3, 4, 5});
  const auto capacity = cache.capacity();
  cache.truncate(2);
  expect_holds(cache, {1, 2});
  append(cache, {9});
  expect_holds(cache, {1, 2, 9});
  EXPECT_EQ(cache.capacity(), capacity);
  EXPECT_THROW(cache.truncate(4), std::invalid_argument);
  EXPECT_THROW(cache.truncate(-1), std::invalid_argument);
  expect_holds(cache, {1, 2, 9});
}

TEST(KvCache, APrefixIsCopiedAndIndependent) {
  kv_cache source(2, 2, 4), fork(2, 2, 4);
  append(source, {1, 2, 3, 4});
  append(fork, {7});
  fork.assign_prefix(source, 3);
  append(fork, {8});
  expect_holds(fork, {1, 2, 3, 8});
  expect_holds(source, {1, 2, 3, 4});
  fork.assign_prefix(source, 0);
  EXPECT_EQ(fork.length(), 0);
  source.assign_prefix(source, 2);
  expect_holds(source, {1, 2});
}

TEST(KvCache, RefusesAnotherShapeOrLength) {
  kv_cache source(2, 2, 4), layers(3, 2, 4), heads(2, 1, 4), dims(2, 2, 8), same(2, 2, 4);
  append(source, {1, 2});
  EXPECT_THROW(layers.assign_prefix(source, 1), std::invalid_argument);
  EXPECT_THROW(heads.assign_prefix(source, 1), std::invalid_argument);
  EXPECT_THROW(dims.assign_prefix(source, 1), std::invalid_argument);
  EXPECT_THROW(same.assign_prefix(source, 3), std::invalid_argument);
  EXPECT_THROW(same.assign_prefix(source, -1), std::invalid_argument);
  EXPECT_EQ(same.length(), 0);
}

}  // namespace
