// SPDX-License-Identifier: Apache-2.0
// A forward pass whose workspace has seen such a call before takes no memory.
#include <gtest/gtest.h>

#include <new>
#include <vector>

#include "llama/model.hpp"
#include "small_model.hpp"
#include "support/count_allocations.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/token_span.hpp"

namespace {

template <class Policy>
long allocations_of_a_third_pass(const Policy& policy) {
  const llama::model m = llama::test::make_small_model(1, llama::gemm_kind::eigen);
  const std::vector<int> a = llama::test::random_tokens(70, 211, 1);
  const std::vector<int> b = llama::test::random_tokens(3, 211, 2);
  const int last_a = 69, last_b = 2;
  llama::kv_cache cache(m.config());
  cache.reserve(70);
  const std::vector<llama::sequence> sequences{{a, &cache, {&last_a, 1}},
                                               {b, nullptr, {&last_b, 1}}};
  llama::workspace space;
  llama::matrix logits;
  long count = 0;
  for (int pass = 0; pass < 3; ++pass) {
    cache.truncate(0);
    const long before = test::allocations;
    llama::forward(m, policy, sequences, space, logits);
    count = test::allocations - before;
  }
  return count;
}

TEST(Allocations, AreCounted) {
  const long before = test::allocations;
  ::operator delete(::operator new(1));
  EXPECT_EQ(test::allocations, before + 1);
}

TEST(Allocations, OfALaterPassAreNone) {
  EXPECT_EQ(allocations_of_a_third_pass(llama::untouched{}), 0);
  EXPECT_EQ(allocations_of_a_third_pass(
                [](const llama::attention_context&) { return zerotune::initial_token{2.0f}; }),
            0);
  EXPECT_EQ(allocations_of_a_third_pass([](const llama::attention_context&) {
              return zerotune::token_span({0, 2}, 2.0f);
            }),
            0);
}

}  // namespace
