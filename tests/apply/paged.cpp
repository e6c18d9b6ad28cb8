// SPDX-License-Identifier: Apache-2.0
// Paged caches: bit by bit the result of the same keys in a row, whatever the pages.
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "apply/decode_run.hpp"
#include "support/errors.hpp"

namespace {

using test::decoded;
using test::index_t;
using test::scene;

#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
constexpr bool finite_math = true;
#else
constexpr bool finite_math = false;
#endif

/// Keys or values of a dense tensor dealt out to pages in a random order. What holds no key is NaN.
template <class T>
class paged {
 public:
  paged(const scene& s, test::tensor<T>& dense, index_t dim, index_t page_size, std::uint64_t seed,
        test::layout order = test::layout::contiguous)
      : per_sequence_((s.kv_len + page_size - 1) / page_size),
        num_pages_(s.batch * per_sequence_ + 3),
        pages_({num_pages_, s.num_kv_heads, page_size, dim}, order),
        table_(static_cast<std::size_t>(s.batch * per_sequence_)) {
    pages_.fill(finite_math ? 0.0 : std::nan(""));
    std::vector<std::int32_t> order_of(static_cast<std::size_t>(num_pages_));
    std::iota(order_of.begin(), order_of.end(), 0);
    test::random_numbers numbers(seed);
    for (std::size_t i = order_of.size(); i-- > 1;)
      std::swap(order_of[i],
                order_of[static_cast<std::size_t>(numbers.integer(0, static_cast<index_t>(i)))]);
    const auto from = dense.const_view();
    const auto to = pages_.view();
    for (index_t b = 0; b < s.batch; ++b) {
      const index_t length =
          s.kv_lengths.empty() ? s.kv_len : s.kv_lengths[static_cast<std::size_t>(b)];
      for (index_t n = 0; n < per_sequence_; ++n) {
        const auto entry = static_cast<std::size_t>(b * per_sequence_ + n);
        // Entries beyond the length are anything.
        table_[entry] = n * page_size < length ? order_of[entry] : (n % 2 ? -7 : 1 << 30);
        for (index_t j = n * page_size; j < length && j < (n + 1) * page_size; ++j)
          for (index_t h = 0; h < s.num_kv_heads; ++h)
            for (index_t c = 0; c < dim; ++c)
              to(table_[entry], h, j - n * page_size, c) = from(b, h, j, c);
      }
    }
    batch_ = s.batch;
  }
  zerotune::paged_cache<const T> cache() {
    return {pages_.const_view(), {table_.data(), {batch_, per_sequence_}}};
  }
  std::vector<std::int32_t>& table() { return table_; }

 private:
  index_t per_sequence_, num_pages_, batch_ = 0;
  test::tensor<T> pages_;
  std::vector<std::int32_t> table_;
};

template <class Kernel>
class paged_cache_of : public ::testing::Test {};
TYPED_TEST_SUITE(paged_cache_of, test::attention_kernels, test::kernel_names);

TYPED_TEST(paged_cache_of, is_bitwise_the_contiguous_one) {
  using T = typename TypeParam::type;
  using backend = typename TypeParam::backend;
  for (const index_t page_size : {16, 32, 64, 256, 1, 7, 100})
    for (const auto order : {test::layout::contiguous, test::layout::swapped}) {
      scene s{.batch = 3, .num_heads = 6, .num_kv_heads = 2, .q_len = 2, .kv_len = 1300};
      s.head_dim = 40, s.value_dim = 24;
      s.kv_lengths = {1300, 1025, 15};
      s.positions = {3, 1024, 0};  // left padding, into the last part too
      s.gammas = {2.0f, 0.0f, 1.0f, 0.5f, 3.0f, 1.0f};
      s.complete();
      test::inputs<T> in(s, 31);
      const auto expected = test::decode<backend, T>(s, in, s.usual());
      paged<T> k(s, in.k, s.head_dim, page_size, 1, order), v(s, in.v, s.value_dim, page_size, 2);
      decoded<T> got(s);
      test::decode_into<backend, T>(got, s, in.q.const_view(), k.cache(), v.cache(), s.usual());
      EXPECT_TRUE(got.same(expected)) << "pages of " << page_size;
    }
}

// Only the page of a key that is seen is looked at.
TYPED_TEST(paged_cache_of, never_reads_a_page_that_no_query_sees) {
  if (finite_math) GTEST_SKIP() << "finite inputs only";
  using T = typename TypeParam::type;
  using backend = typename TypeParam::backend;
  scene s{.num_heads = 2, .num_kv_heads = 1, .q_len = 1, .kv_len = 1500};
  s.window = 100;
  s.kv_lengths = {1500};  // the last page is not full
  s.complete();
  test::inputs<T> in(s, 31);
  const auto m = zerotune::causal{} | zerotune::sliding_window{s.window};
  const auto expected = test::decode<backend, T>(s, in, m);
  for (index_t j = 0; j < s.kv_len - s.window; ++j)
    for (index_t c = 0; c < s.head_dim; ++c)
      in.k.at(j * s.head_dim + c) = in.v.at(j * s.head_dim + c) =
          test::from_double<T>(std::nan(""));
  paged<T> k(s, in.k, s.head_dim, 16, 1), v(s, in.v, s.value_dim, 16, 2);
  decoded<T> got(s);
  test::decode_into<backend, T>(got, s, in.q.const_view(), k.cache(), v.cache(), m);
  EXPECT_TRUE(got.same(expected));
}

TEST(paged_cache_refuses, tables_that_do_not_fit) {
  using T = float;
  scene s{.batch = 2, .num_heads = 2, .num_kv_heads = 1, .q_len = 1, .kv_len = 64};
  s.kv_lengths = {64, 20};
  s.complete();
  test::inputs<T> in(s, 31);
  paged<T> k(s, in.k, s.head_dim, 16, 1), v(s, in.v, s.value_dim, 16, 2);
  const auto message = [&](const zerotune::paged_cache<const T>& keys,
                           const zerotune::paged_cache<const T>& values) {
    decoded<T> got(s);
    const std::string result = test::message_of([&] {
      test::decode_into<zerotune::backend::scalar, T>(got, s, in.q.const_view(), keys, values,
                                                      s.usual());
    });
    EXPECT_TRUE(result.empty() || got.same(decoded<T>(s))) << "something was written";
    return result;
  };
  EXPECT_EQ(message(k.cache(), v.cache()), "");  // what follows is wrong in one thing each
  const auto with = [&](std::size_t entry, std::int32_t page) {
    paged<T> bad(s, in.k, s.head_dim, 16, 1);
    bad.table()[entry] = page;
    return message(bad.cache(), v.cache());
  };
  EXPECT_TRUE(test::mentions(
      with(1, -1), {"attention_decode: k block_table[0, 1]", "a page in [0, 11)", "got -1"}));
  EXPECT_TRUE(test::mentions(with(5, 11), {"k block_table[1, 1]", "got 11"}));
  EXPECT_EQ(with(6, 11), "") << "beyond the length of its sequence";

  auto cache = k.cache();
  cache.block_table = {k.table().data(), {1, 4}};
  EXPECT_TRUE(
      test::mentions(message(cache, v.cache()), {"k dim 0 (batch)", "expected 2", "got 1"}));
  cache = k.cache();
  cache.block_table = {k.table().data(), {2, 3}};
  EXPECT_NE(message(cache, v.cache()), "") << "kv_lengths beyond the table";
  cache = k.cache();
  cache.pages = {cache.pages.data(), {11, 1, 0, s.head_dim}};
  EXPECT_TRUE(
      test::mentions(message(cache, v.cache()), {"k pages dim 2 (page_size)", "at least 1"}));
  cache = k.cache();
  cache.block_table = {nullptr, {2, 4}};
  EXPECT_TRUE(test::mentions(message(cache, v.cache()), {"k block_table data", "null"}));
  paged<T> other(s, in.v, s.value_dim, 32, 2);
  EXPECT_EQ(message(k.cache(), other.cache()), "") << "pages of 16 and 32 hold 64 keys each";
  EXPECT_TRUE(test::mentions(message(k.cache(), paged<T>(s, in.v, s.value_dim, 24, 2).cache()),
                             {"v dim 2 (kv_len)", "expected 64", "got 72"}));
}

TEST(paged_cache_refuses, outputs_over_the_table) {
  scene s{.q_len = 1, .kv_len = 16, .head_dim = 2, .value_dim = 2};
  s.complete();
  test::inputs<float> in(s, 31);
  paged<float> k(s, in.k, 2, 16, 1), v(s, in.v, 2, 16, 2);
  std::vector<float> memory(4, 0.0f);
  auto cache = k.cache();
  cache.block_table = {reinterpret_cast<const std::int32_t*>(memory.data()), {1, 1}};
  EXPECT_TRUE(test::mentions(test::message_of([&] {
                               zerotune::attention_decode(
                                   zerotune::backend::scalar{}, in.q.const_view(), cache, v.cache(),
                                   zerotune::tensor_view<float, 4>(memory.data(), {1, 1, 1, 2}),
                                   s.usual());
                             }),
                             {"out", "memory apart from k block_table"}));
}

}  // namespace
