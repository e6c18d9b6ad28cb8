// SPDX-License-Identifier: Apache-2.0
// A forward pass whose workspace has seen such a call before takes no memory.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "llama/model.hpp"
#include "small_model.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/token_span.hpp"

namespace {

std::atomic<long> allocations{0};

void* take(std::size_t size, std::size_t alignment) {
  ++allocations;
  const std::size_t rounded = (size + alignment - 1) / alignment * alignment;
  if (void* const memory = std::aligned_alloc(alignment, rounded ? rounded : alignment))
    return memory;
  throw std::bad_alloc();
}

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t size) {
  return take(size, alignof(std::max_align_t));
}
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
  return take(size, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}

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
    const long before = allocations;
    llama::forward(m, policy, sequences, space, logits);
    count = allocations - before;
  }
  return count;
}

TEST(Allocations, AreCounted) {
  const long before = allocations;
  ::operator delete(::operator new(1));
  EXPECT_EQ(allocations, before + 1);
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
