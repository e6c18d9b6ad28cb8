// SPDX-License-Identifier: Apache-2.0
// What was answered once is not asked again, and answers do not depend on what is remembered.
#include "zerotune/tuning/recorded_evaluator.hpp"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "support/errors.hpp"
#include "tuning/linear_host.hpp"
#include "tuning/toy_host.hpp"

namespace {

using namespace zerotune;
using test::mentions;
using test::message_of;

static_assert(evaluator<recorded_evaluator<test::toy_host>>);
static_assert(many_evaluator<recorded_evaluator<test::toy_host>>);
static_assert(!differentiable_evaluator<recorded_evaluator<test::toy_host>>);
static_assert(differentiable_evaluator<recorded_evaluator<test::linear_host>>);

const gamma_table some = gamma_table::from(2, 3, {{0, 1}, {1, 2}}, 1.5f);

TEST(recorded_evaluator, asks_once) {
  test::linear_host host = test::make_linear_host();
  recorded_evaluator<test::linear_host> recorded(host);
  const auto rows = test::rows_between(0, 20);
  const auto first = recorded.evaluate(some, rows, {});
  EXPECT_EQ(host.rows_evaluated, 20);
  EXPECT_EQ(first, host.evaluate(some, rows, {}, {}));
  host.rows_evaluated = 0;
  EXPECT_EQ(recorded.evaluate(some, rows, {}), first);
  EXPECT_EQ(host.rows_evaluated, 0);
  const std::vector<index_t> more{25, 3, 3, 24, 25};
  EXPECT_EQ(recorded.evaluate(some, more, {}), host.evaluate(some, more, {}, {}));
  EXPECT_EQ(host.rows_evaluated, 2 + 5);
  EXPECT_EQ(recorded.cost().forward_rows, 22);
  EXPECT_EQ(recorded.cost().backward_rows, 0);
}

TEST(recorded_evaluator, returns_only_what_is_wanted) {
  test::linear_host host = test::make_linear_host();
  recorded_evaluator<test::linear_host> recorded(host);
  const auto rows = test::rows_between(0, 8);
  (void)recorded.evaluate(some, rows, {});
  for (const quantities& wanted : {quantities{true, false, false}, quantities{false, true, false},
                                   quantities{false, false, true}, quantities{true, false, true}})
    EXPECT_EQ(recorded.evaluate(some, rows, wanted), host.evaluate(some, rows, wanted, {}));
}

TEST(recorded_evaluator, merges_what_it_learns_bit_by_bit) {
  test::linear_host host = test::make_linear_host();
  recorded_evaluator<test::linear_host> recorded(host);
  const auto rows = test::rows_between(0, 8);
  for (const quantities& part : {quantities{true, false, false}, quantities{false, true, false},
                                 quantities{false, false, true}})
    (void)recorded.evaluate(some, rows, part);
  EXPECT_EQ(host.rows_evaluated, 24);
  EXPECT_EQ(recorded.evaluate(some, rows, {}), host.evaluate(some, rows, {}, {}));
  EXPECT_EQ(host.rows_evaluated, 32);
}

TEST(recorded_evaluator, gradients_are_kept_by_table_loss_and_row) {
  test::linear_host host = test::make_linear_host();
  recorded_evaluator<test::linear_host> recorded(host);
  const auto rows = test::rows_between(0, 20);
  const loss_weights loss{.choices = 1, .vocabulary = 0.5};
  const auto all = recorded.differentiate(some, rows, loss);
  const std::vector<index_t> few{19, 4};
  const auto again = recorded.differentiate(some, few, loss);
  EXPECT_EQ(host.rows_differentiated, 20);
  const auto direct = host.differentiate(some, few, loss, {});
  EXPECT_EQ(again.loss, direct.loss);
  EXPECT_EQ(again.gradient, direct.gradient);
  (void)recorded.differentiate(some, few, {.choices = 1});
  (void)recorded.differentiate(gamma_table(2, 3), few, loss);
  EXPECT_EQ(host.rows_differentiated, 20 + 2 + 2 + 2);
  EXPECT_EQ(recorded.cost().backward_rows, 24);
}

TEST(recorded_evaluator, what_is_restored_is_not_asked_but_counted) {
  test::linear_host host = test::make_linear_host();
  std::vector<evaluation_record> answers;
  std::vector<gradient_record> gradients;
  recorded_evaluator<test::linear_host> recorded(
      host, {[&](const evaluation_record& r) { answers.push_back(r); },
             [&](const gradient_record& r) { gradients.push_back(r); }});
  const auto rows = test::rows_between(0, 20);
  const auto before = recorded.evaluate(some, rows, {});
  const auto slopes = recorded.differentiate(some, rows, {});
  ASSERT_EQ(answers.size(), 1u);
  ASSERT_EQ(gradients.size(), 1u);
  host.rows_evaluated = host.rows_differentiated = 0;
  recorded_evaluator<test::linear_host> resumed(host);
  resumed.restore(answers[0]);
  resumed.restore(gradients[0]);
  EXPECT_EQ(resumed.cost().forward_rows, 0);
  EXPECT_EQ(resumed.evaluate(some, rows, {}), before);
  EXPECT_EQ(resumed.differentiate(some, rows, {}).gradient, slopes.gradient);
  EXPECT_EQ(host.rows_evaluated + host.rows_differentiated, 0);
  EXPECT_EQ(resumed.cost().forward_rows, recorded.cost().forward_rows);
  EXPECT_EQ(resumed.cost().backward_rows, recorded.cost().backward_rows);
  EXPECT_NEAR(resumed.cost().seconds, recorded.cost().seconds, 1e-9);
}

// Hosts that share work between tables are given them together, but not all of the work at once.
struct many_host : test::toy_host {
  std::vector<std::size_t> asked;
  std::vector<std::vector<example_result>> evaluate_many(std::span<const gamma_table> gammas,
                                                         std::span<const index_t> examples,
                                                         const quantities& wanted,
                                                         const progress_callback&) {
    asked.push_back(gammas.size());
    std::vector<std::vector<example_result>> results;
    for (const gamma_table& gamma : gammas)
      results.push_back(evaluate(gamma, examples, wanted, {}));
    return results;
  }
};

TEST(recorded_evaluator, asks_for_many_tables_together) {
  many_host host{test::make_toy_host(), {}};
  recorded_evaluator<many_host> recorded(host);
  const auto rows = test::all_rows(host);
  std::vector<gamma_table> tables;
  for (int i = 0; i < 40; ++i) tables.emplace_back(3, 5, 1.0f + static_cast<float>(i));
  (void)recorded.evaluate(tables[5], rows, {});
  host.asked.clear();
  host.rows_evaluated = 0;
  index_t last = 0;
  const auto results = recorded.evaluate_many(tables, rows, {}, [&](index_t done, index_t total) {
    EXPECT_EQ(total, 40 * 40);
    EXPECT_GE(done, last);
    last = done;
  });
  EXPECT_EQ(host.asked, (std::vector<std::size_t>{5, 32, 2}));
  EXPECT_EQ(host.rows_evaluated, 39 * 40);
  ASSERT_EQ(results.size(), 40u);
  EXPECT_EQ(results[39], host.evaluate(tables[39], rows, {}, {}));
}

TEST(recorded_evaluator, tables_differ_by_hash) {
  std::set<std::uint64_t> hashes{hash_of(gamma_table(2, 3)), hash_of(gamma_table(3, 2)),
                                 hash_of(gamma_table())};
  for (index_t layer = 0; layer < 2; ++layer)
    for (index_t head = 0; head < 3; ++head)
      for (const float gamma : {0.0f, 0.5f, 1.0000001f, 2.0f})
        hashes.insert(hash_of(gamma_table::from(2, 3, {{layer, head}}, gamma)));
  EXPECT_EQ(hashes.size(), 3u + 24u);
  EXPECT_EQ(hash_of(some), hash_of(gamma_table(some)));
}

TEST(recorded_evaluator, records_that_do_not_fit_are_refused) {
  test::linear_host host = test::make_linear_host();
  recorded_evaluator<test::linear_host> recorded(host);
  EXPECT_TRUE(mentions(message_of([&] {
                         recorded.restore(evaluation_record{1, {}, {1, 2}, {example_result{}}, 0});
                       }),
                       {"results"}));
  EXPECT_TRUE(mentions(message_of([&] {
                         recorded.restore(gradient_record{1, {}, {1}, {{}, {}}, 0});
                       }),
                       {"losses"}));
  EXPECT_TRUE(mentions(message_of([&] {
                         recorded.restore(gradient_record{1, {}, {1}, {{0.5}, {1, 2}}, 0});
                       }),
                       {"gradients"}));
}

/// Forgets its tables.
struct forgetful_host {
  zerotune::index_t num_layers() const { return 1; }
  zerotune::index_t num_heads() const { return 1; }
  std::vector<zerotune::example_result> evaluate(const zerotune::gamma_table&,
                                                 std::span<const zerotune::index_t> examples,
                                                 const zerotune::quantities&,
                                                 const zerotune::progress_callback&) {
    return std::vector<zerotune::example_result>(examples.size());
  }
  std::vector<std::vector<zerotune::example_result>> evaluate_many(
      std::span<const zerotune::gamma_table>, std::span<const zerotune::index_t>,
      const zerotune::quantities&, const zerotune::progress_callback&) {
    return {};
  }
};

TEST(evaluate_tables, a_host_that_returns_no_table_is_refused) {
  forgetful_host host;
  const std::vector<zerotune::gamma_table> tables(1, zerotune::gamma_table(1, 1));
  const std::vector<zerotune::index_t> rows{0, 1};
  EXPECT_TRUE(
      test::mentions(test::message_of([&] { zerotune::evaluate_tables(host, tables, rows, {}); }),
                     {"dim 0 (tables)", "expected 1", "got 0"}));
}

}  // namespace
