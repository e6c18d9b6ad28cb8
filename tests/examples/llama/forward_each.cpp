// SPDX-License-Identifier: Apache-2.0
// forward_each(): bit for bit what forward() gives under each policy, with as many layers run as
// the shared ones leave.
#include "llama/forward_each.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "reference_cases.hpp"
#include "small_model.hpp"
#include "zerotune/core/thread_pool.hpp"

namespace {

using llama::forward;
using llama::kv_cache;
using llama::matrix;
using llama::sequence;
using llama::test::make_small_model;
using llama::test::random_tokens;

constexpr int layers = 3, heads = 6;

zerotune::gamma_table changed(int layer, int head, float gamma) {
  zerotune::gamma_table table(layers, heads);
  table(layer, head) = gamma;
  return table;
}

class ForwardEach : public testing::TestWithParam<llama::gemm_kind> {
 protected:
  void SetUp() override {
    if (!llama::is_available(GetParam()))
      GTEST_SKIP() << "this build or CPU has not got " << name_of(GetParam());
  }

  const std::vector<int> prefix_ = random_tokens(9, 211, 1);
  const std::vector<std::vector<int>> rests_{random_tokens(30, 211, 2), random_tokens(1, 211, 3),
                                             random_tokens(6, 211, 4)};
  const std::vector<int> last_{29, 0, 5};

  std::vector<sequence> sequences(std::vector<kv_cache>& caches) const {
    std::vector<sequence> result;
    for (std::size_t i = 0; i < rests_.size(); ++i)
      result.push_back({rests_[i], &caches[i], {&last_[i], 1}});
    return result;
  }
  std::vector<kv_cache> make_caches(const llama::model& m) const {
    std::vector<kv_cache> caches;
    for (std::size_t i = 0; i < rests_.size(); ++i) caches.emplace_back(m.config());
    return caches;
  }

  /// Logits of the prompts and of one more token, each table by itself.
  std::vector<float> alone(const llama::model& m, const zerotune::gamma_table& table,
                           bool with_prefix) const {
    const llama::test::table_policy policy{&table};
    llama::workspace space;
    matrix logits;
    std::vector<kv_cache> caches = make_caches(m);
    if (with_prefix) {
      kv_cache shared(m.config());
      const sequence first{prefix_, &shared, {}};
      forward(m, policy, std::span(&first, 1), space, logits);
      for (kv_cache& each : caches) each.assign_prefix(shared, shared.length());
    }
    forward(m, policy, sequences(caches), space, logits);
    std::vector<float> found(logits.values().begin(), logits.values().end());
    append_next(m, policy, caches, found);
    return found;
  }
  template <class Policy>
  static void append_next(const llama::model& m, const Policy& policy,
                          std::vector<kv_cache>& caches, std::vector<float>& to) {
    llama::workspace space;
    matrix logits;
    const int token = 17, at = 0;
    for (kv_cache& cache : caches) {
      const sequence next{{&token, 1}, &cache, {&at, 1}};
      forward(m, policy, std::span(&next, 1), space, logits);
      to.insert(to.end(), logits.values().begin(), logits.values().end());
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Products, ForwardEach,
                         testing::Values(llama::gemm_kind::eigen, llama::gemm_kind::onednn,
                                         llama::gemm_kind::onednn_bf16));

TEST_P(ForwardEach, GivesTheBitsOfForward) {
  const llama::model m = make_small_model(1, GetParam());
  // Deep and shallow branches, a return to a former one, and two equal tables.
  const std::vector<zerotune::gamma_table> tables{
      changed(2, 1, 3.0f), changed(2, 4, 0.0f), changed(1, 0, 2.0f), changed(1, 5, 2.0f),
      changed(1, 5, 2.0f), changed(0, 3, 4.0f), changed(2, 2, 0.5f)};
  const std::vector<int> shared{0, 2, 1, 1, 3, 0, 0};
  for (const bool with_prefix : {false, true}) {
    std::vector<kv_cache> caches = make_caches(m);
    kv_cache common(m.config());
    const sequence prefix{prefix_, &common, {}};
    for (kv_cache& each : caches) {
      each.reserve(60);
      if (with_prefix) each.commit(prefix_);
    }
    int layer_runs = 0;
    std::vector<std::size_t> order;
    llama::forward_each_workspace space;
    matrix logits;
    llama::forward_each(
        m,
        [&](std::size_t i) {
          return [&, i](const llama::attention_context& context) {
            layer_runs += context.sequence == 0 && context.past >= (with_prefix ? 9 : 0);
            return zerotune::initial_token{tables[i].row(context.layer)};
          };
        },
        shared, with_prefix ? &prefix : nullptr, sequences(caches), space, logits,
        [&](std::size_t i) {
          order.push_back(i);
          std::vector<float> found(logits.values().begin(), logits.values().end());
          append_next(m, llama::test::table_policy{&tables[i]}, caches, found);
          EXPECT_EQ(found, alone(m, tables[i], with_prefix)) << "table " << i;
        });
    EXPECT_EQ(order, (std::vector<std::size_t>{0, 1, 2, 3, 4, 5, 6}));
    // 3 + 1 + 2 + 2 + 0 + 3 + 3 layers.
    EXPECT_EQ(layer_runs, 14);
    for (const kv_cache& each : caches) EXPECT_EQ(each.length(), with_prefix ? 9 : 0);
  }
}

TEST_P(ForwardEach, ThreadsChangeNothing) {
  const llama::model m = make_small_model(1, GetParam());
  const std::vector<zerotune::gamma_table> tables{changed(2, 1, 3.0f), changed(1, 0, 2.0f)};
  const std::vector<int> shared{0, 1};
  zerotune::thread_pool pool(3);
  std::vector<std::vector<float>> found;
  for (const llama::executor_ref threads : {llama::executor_ref(), llama::executor_ref(pool)}) {
    std::vector<kv_cache> caches = make_caches(m);
    llama::forward_each_workspace space;
    matrix logits;
    llama::forward_each(
        m, [&](std::size_t i) { return llama::test::table_policy{&tables[i]}; }, shared, nullptr,
        sequences(caches), space, logits,
        [&](std::size_t) { found.emplace_back(logits.values().begin(), logits.values().end()); },
        threads);
  }
  ASSERT_EQ(found.size(), 4u);
  EXPECT_EQ(found[0], found[2]);
  EXPECT_EQ(found[1], found[3]);
  EXPECT_NE(found[0], found[1]);
}

TEST(ForwardEachOrder, SaysWhatIsNeededLater) {
  const std::vector<int> shared{0, 2, 1, 1, 3, 0};
  EXPECT_TRUE(llama::is_needed_later(shared, 0, 2));
  EXPECT_TRUE(llama::is_needed_later(shared, 0, 1));
  EXPECT_TRUE(llama::is_needed_later(shared, 0, 0));
  EXPECT_FALSE(llama::is_needed_later(shared, 1, 2));  // the next begins below
  EXPECT_TRUE(llama::is_needed_later(shared, 2, 1));
  EXPECT_FALSE(llama::is_needed_later(shared, 3, 1));
  EXPECT_FALSE(llama::is_needed_later(shared, 5, 0));
}

}  // namespace
