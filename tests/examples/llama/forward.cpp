// SPDX-License-Identifier: Apache-2.0
// forward(): what must not change a result (batch, threads, chunks, shared prefixes, gamma = 1),
// what must, and what is refused.
#include "llama/forward.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <thread>
#include <vector>

#include "reference_cases.hpp"
#include "small_model.hpp"
#include "zerotune/core/thread_pool.hpp"
#include "zerotune/policy/token_span.hpp"

namespace {

using llama::forward;
using llama::kv_cache;
using llama::matrix;
using llama::sequence;
using llama::untouched;
using llama::workspace;
using llama::test::make_small_model;
using llama::test::random_tokens;

std::vector<int> all_of(const std::vector<int>& tokens) {
  std::vector<int> indices(tokens.size());
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

std::vector<float> copy(const matrix& values) {
  return {values.values().begin(), values.values().end()};
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0.0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    largest = std::max(largest, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  return largest;
}

/// Logits of every token of one sequence without a cache.
template <class Policy = untouched>
std::vector<float> run_alone(const llama::model& m, const std::vector<int>& tokens,
                             Policy&& policy = {}, llama::executor_ref threads = {}) {
  const std::vector<int> at = all_of(tokens);
  const sequence run{tokens, nullptr, at};
  workspace space;
  matrix logits;
  forward(m, policy, std::span(&run, 1), space, logits, threads);
  return copy(logits);
}

class Products : public testing::TestWithParam<llama::gemm_kind> {
 protected:
  void SetUp() override {
    if (!llama::is_available(GetParam()))
      GTEST_SKIP() << "this build or CPU has not got " << name_of(GetParam());
  }
};
INSTANTIATE_TEST_SUITE_P(Forward, Products,
                         testing::Values(llama::gemm_kind::eigen, llama::gemm_kind::onednn,
                                         llama::gemm_kind::onednn_bf16));

TEST_P(Products, ABatchGivesWhatItsSequencesGiveAlone) {
  const llama::model m = make_small_model(1, GetParam());
  std::vector<std::vector<int>> tokens;
  std::vector<std::vector<int>> at;
  std::vector<sequence> batch;
  for (const int length : {5, 1, 64, 33, 130, 2, 17}) {
    tokens.push_back(random_tokens(length, 211, static_cast<std::uint64_t>(length)));
    at.push_back(all_of(tokens.back()));
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) batch.push_back({tokens[i], nullptr, at[i]});
  workspace space;
  matrix logits;
  forward(m, untouched{}, batch, space, logits);
  std::vector<float> expected;
  for (const auto& each : tokens) {
    const std::vector<float> alone = run_alone(m, each);
    expected.insert(expected.end(), alone.begin(), alone.end());
  }
  EXPECT_EQ(copy(logits), expected);
}

TEST_P(Products, ThreadsChangeNothing) {
  const llama::model m = make_small_model(2, GetParam());
  const std::vector<int> tokens = random_tokens(150, 211, 3);
  const std::vector<float> serial = run_alone(m, tokens);
  for (const int count : {2, 3, 5}) {
    zerotune::thread_pool pool(count);
    EXPECT_EQ(run_alone(m, tokens, untouched{}, pool), serial) << count << " threads";
  }
}

TEST_P(Products, CallsFromSeveralThreadsAreIndependent) {
  const llama::model m = make_small_model(2, GetParam());
  std::vector<std::vector<int>> tokens;
  std::vector<std::vector<float>> expected, found(4);
  for (std::uint64_t i = 0; i < 4; ++i) {
    tokens.push_back(random_tokens(40 + static_cast<int>(i), 211, i));
    expected.push_back(run_alone(m, tokens.back()));
  }
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < 4; ++i)
    threads.emplace_back([&, i] { found[i] = run_alone(m, tokens[i]); });
  for (std::thread& each : threads) each.join();
  EXPECT_EQ(found, expected);
}

TEST(Forward, OnlyTheRequestedRowsComeBack) {
  const llama::model m = make_small_model();
  const std::vector<int> a = random_tokens(20, 211, 1), b = random_tokens(9, 211, 2);
  const std::vector<int> at_a{3, 4, 19}, at_b{0};
  const std::vector<sequence> batch{{a, nullptr, at_a}, {b, nullptr, {}}, {b, nullptr, at_b}};
  workspace space;
  matrix logits;
  forward(m, untouched{}, batch, space, logits);
  ASSERT_EQ(logits.rows(), 4);
  const std::vector<float> all_a = run_alone(m, a), all_b = run_alone(m, b);
  const auto row = [](const std::vector<float>& all, int i) {
    return std::vector<float>(all.begin() + i * 211, all.begin() + (i + 1) * 211);
  };
  std::vector<float> expected;
  for (const auto& each : {row(all_a, 3), row(all_a, 4), row(all_a, 19), row(all_b, 0)})
    expected.insert(expected.end(), each.begin(), each.end());
  EXPECT_EQ(copy(logits), expected);
}

TEST(Forward, NoSequenceIsNothing) {
  const llama::model m = make_small_model();
  workspace space;
  matrix logits(3, 3);
  forward(m, untouched{}, std::span<const sequence>(), space, logits);
  EXPECT_EQ(logits.rows(), 0);
}

TEST(Forward, ChunksGiveWhatTheWholeGives) {
  const llama::model m = make_small_model();
  const std::vector<int> tokens = random_tokens(100, 211, 5);
  const zerotune::gamma_table table(3, 6, 2.5f);
  const llama::test::table_policy policy{&table};
  const std::vector<float> whole = run_alone(m, tokens, policy);
  for (const std::size_t chunk : {1u, 7u, 64u, 99u}) {
    kv_cache cache(m.config());
    workspace space;
    matrix logits;
    std::vector<float> found;
    for (std::size_t first = 0; first < tokens.size(); first += chunk) {
      const auto part = std::span(tokens).subspan(first, std::min(chunk, tokens.size() - first));
      const std::vector<int> at = all_of({part.begin(), part.end()});
      const sequence run{part, &cache, at};
      forward(m, policy, std::span(&run, 1), space, logits);
      found.insert(found.end(), logits.values().begin(), logits.values().end());
    }
    EXPECT_EQ(cache.length(), 100);
    EXPECT_TRUE(std::ranges::equal(cache.tokens(), tokens));
    // Blocks of queries may be summed in another order; the logits are about 3.
    EXPECT_LE(largest_difference(found, whole), 2e-5) << "chunks of " << chunk;
    RecordProperty("bitwise_chunk_" + std::to_string(chunk), found == whole ? 1 : 0);
  }
}

TEST(Forward, ASharedPrefixGivesWhatTheWholePromptGives) {
  const llama::model m = make_small_model();
  const std::vector<int> prefix = random_tokens(41, 211, 6);
  zerotune::gamma_table table(3, 6);
  table(1, 2) = 0.0f;
  table(2, 5) = 3.0f;
  const llama::test::table_policy policy{&table};
  workspace space;
  matrix logits;
  kv_cache shared(m.config());
  const sequence first{prefix, &shared, {}};
  forward(m, policy, std::span(&first, 1), space, logits);
  EXPECT_EQ(logits.rows(), 0);
  for (const int length : {1, 6, 30}) {
    const std::vector<int> rest =
        random_tokens(length, 211, 70 + static_cast<std::uint64_t>(length));
    kv_cache forked(m.config());
    forked.assign_prefix(shared, 41);
    const int last = length - 1;
    const sequence run{rest, &forked, std::span(&last, 1)};
    forward(m, policy, std::span(&run, 1), space, logits);
    std::vector<int> whole = prefix;
    whole.insert(whole.end(), rest.begin(), rest.end());
    const std::vector<float> all = run_alone(m, whole, policy);
    EXPECT_LE(largest_difference(copy(logits), {all.end() - 211, all.end()}), 2e-5) << length;
  }
  EXPECT_EQ(shared.length(), 41);
}

TEST(Forward, TruncatedTokensLeaveNoTrace) {
  const llama::model m = make_small_model();
  const std::vector<int> prefix = random_tokens(10, 211, 1), a = random_tokens(5, 211, 2),
                         b = random_tokens(6, 211, 3);
  workspace space;
  matrix logits;
  kv_cache cache(m.config()), fresh(m.config());
  const std::vector<int> at = all_of(b);
  const auto run = [&](const std::vector<int>& tokens, kv_cache& into) {
    const sequence s{tokens, &into, std::span(at).first(tokens.size() == b.size() ? 6 : 0)};
    forward(m, untouched{}, std::span(&s, 1), space, logits);
  };
  run(prefix, cache);
  run(a, cache);
  cache.truncate(10);
  run(b, cache);
  const std::vector<float> found = copy(logits);
  run(prefix, fresh);
  run(b, fresh);
  EXPECT_EQ(found, copy(logits));
}

TEST(Forward, GammaOneIsThePlainModelBitForBit) {
  const llama::model m = make_small_model();
  const std::vector<int> tokens = random_tokens(75, 211, 8);
  const zerotune::gamma_table ones(3, 6);
  EXPECT_EQ(run_alone(m, tokens, llama::test::table_policy{&ones}), run_alone(m, tokens));
}

TEST(Forward, GammaChangesAllRowsButTheFirst) {
  const llama::model m = make_small_model();
  const std::vector<int> tokens = random_tokens(12, 211, 8);
  zerotune::gamma_table table(3, 6);
  table(0, 3) = 4.0f;
  const std::vector<float> plain = run_alone(m, tokens);
  const std::vector<float> tuned = run_alone(m, tokens, llama::test::table_policy{&table});
  for (std::ptrdiff_t i = 0; i < 12; ++i) {
    const bool same =
        std::equal(plain.begin() + i * 211, plain.begin() + (i + 1) * 211, tuned.begin() + i * 211);
    EXPECT_EQ(same, i == 0) << "row " << i;
  }
}

TEST(Forward, GammaTwoIsASecondCopyOfTheInitialToken) {
  // The copies lie at position 0 of both sequences, so that rotation treats them alike: a policy
  // that knows tokens and positions does the same by hand with a span over position 0.
  const llama::model m = make_small_model();
  const std::vector<int> tokens = random_tokens(30, 211, 9);
  const zerotune::gamma_table twos(3, 6, 2.0f);
  const auto span_policy = [](const llama::attention_context&) {
    return zerotune::token_span({0, 1}, 2.0f);
  };
  EXPECT_LE(largest_difference(run_alone(m, tokens, llama::test::table_policy{&twos}),
                               run_alone(m, tokens, span_policy)),
            1e-5);
}

TEST(Forward, APolicySeesTheWholeSequence) {
  const llama::model m = make_small_model();
  const std::vector<int> prefix = random_tokens(7, 211, 1), rest = random_tokens(4, 211, 2);
  std::vector<int> whole = prefix;
  whole.insert(whole.end(), rest.begin(), rest.end());
  kv_cache cache(m.config());
  workspace space;
  matrix logits;
  const sequence first{prefix, &cache, {}};
  forward(m, untouched{}, std::span(&first, 1), space, logits);
  const int last = 3;
  const std::vector<sequence> batch{{prefix, nullptr, std::span(&last, 1)},
                                    {rest, &cache, std::span(&last, 1)}};
  int calls = 0;
  const auto policy = [&](const llama::attention_context& context) {
    ++calls;
    EXPECT_EQ(context.num_layers, 3);
    EXPECT_TRUE(std::ranges::equal(context.tokens, context.sequence == 0 ? prefix : whole));
    const bool last_layer = context.layer == 2;
    EXPECT_EQ(context.past, (context.sequence == 0 ? 0 : 7) + (last_layer ? 3 : 0));
    return zerotune::identity{};
  };
  forward(m, policy, batch, space, logits);
  EXPECT_EQ(calls, 6);
}

TEST(Forward, AnObserverSeesWeightsThatAddUp) {
  const llama::model m = make_small_model();
  const std::vector<int> tokens = random_tokens(23, 211, 4);
  const int last = 22;
  const sequence run{tokens, nullptr, std::span(&last, 1)};
  workspace space;
  matrix logits;
  int calls = 0;
  const auto observer = [&](const llama::attention_record& record, const auto& modifier) {
    ++calls;
    ASSERT_EQ(record.q.extent(2), 23);
    ASSERT_EQ(record.k.extent(1), 2);
    for (zerotune::index_t head = 0; head < 6; ++head)
      for (zerotune::index_t q = 0; q < 23; ++q) {
        double sum = 0.0;
        for (zerotune::index_t k = 0; k <= q; ++k) {
          double dot = 0.0;
          for (zerotune::index_t d = 0; d < 20; ++d)
            dot += static_cast<double>(record.q(0, head, q, d) * record.k(0, head / 3, k, d));
          const double logit = zerotune::apply_to_logit(
              modifier, zerotune::row{0, static_cast<int>(head), q}, static_cast<double>(k),
              dot * static_cast<double>(record.softmax_scale));
          sum += std::exp(logit - static_cast<double>(record.lse(0, head, q)));
        }
        EXPECT_NEAR(sum, 1.0, 1e-5);
      }
  };
  const zerotune::gamma_table table(3, 6, 3.0f);
  forward(m, llama::test::table_policy{&table}, std::span(&run, 1), space, logits, {}, observer);
  EXPECT_EQ(calls, 3);
  const std::vector<float> expected = run_alone(m, tokens, llama::test::table_policy{&table});
  EXPECT_LE(largest_difference(copy(logits), {expected.end() - 211, expected.end()}), 1e-5);
}

template <class Change>
void expect_refused(const std::string& message, Change&& change) {
  const llama::model m = make_small_model();
  const std::vector<int> tokens = random_tokens(4, 211, 1);
  kv_cache cache(m.config());
  workspace space;
  matrix logits;
  sequence run{tokens, &cache, {}};
  forward(m, untouched{}, std::span(&run, 1), space, logits);
  std::vector<sequence> batch{run};
  change(batch);
  try {
    forward(m, untouched{}, batch, space, logits);
    FAIL() << "not refused: " << message;
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
  }
  EXPECT_EQ(cache.length(), 4);
}

TEST(Forward, RefusesMistakesAndLeavesTheCacheAsItWas) {
  const std::vector<int> bad_token{1, 211}, negative{-1}, long_tokens(509, 1);
  const std::vector<int> beyond{4}, twice{1, 1}, falling{2, 1};
  kv_cache other(2, 2, 20);
  expect_refused("sequences[0] tokens: expected at least one",
                 [](auto& batch) { batch[0].tokens = {}; });
  expect_refused("tokens[1]: expected a value in [0, 211), got 211",
                 [&](auto& batch) { batch[0].tokens = bad_token; });
  expect_refused("tokens[0]", [&](auto& batch) { batch[0].tokens = negative; });
  expect_refused("context_length = 512, got 513",
                 [&](auto& batch) { batch[0].tokens = long_tokens; });
  expect_refused("logits_at[0]", [&](auto& batch) { batch[0].logits_at = beyond; });
  expect_refused("logits_at[1]: expected more than 1",
                 [&](auto& batch) { batch[0].logits_at = twice; });
  expect_refused("logits_at[1]", [&](auto& batch) { batch[0].logits_at = falling; });
  expect_refused("sequences[0] cache", [&](auto& batch) { batch[0].cache = &other; });
  expect_refused("got one twice", [](auto& batch) { batch.push_back(batch[0]); });
}

TEST(Forward, AModifierThatDoesNotFitLeavesTheCacheAsItWas) {
  const llama::model m = make_small_model();
  const std::vector<int> tokens = random_tokens(4, 211, 1);
  kv_cache cache(m.config());
  workspace space;
  matrix logits;
  const sequence run{tokens, &cache, {}};
  const zerotune::gamma_table five_heads(3, 5);
  EXPECT_THROW(
      forward(m, llama::test::table_policy{&five_heads}, std::span(&run, 1), space, logits),
      zerotune::invalid_argument);
  const auto nan_policy = [](const llama::attention_context&) {
    return zerotune::initial_token{std::numeric_limits<float>::quiet_NaN()};
  };
  EXPECT_THROW(forward(m, nan_policy, std::span(&run, 1), space, logits),
               zerotune::invalid_argument);
  EXPECT_EQ(cache.length(), 0);
}

}  // namespace
