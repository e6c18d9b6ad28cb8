// SPDX-License-Identifier: Apache-2.0
// attention of few queries is attention_decode: the same bits, whatever the threads, the batch and
// the lengths, and within the bound of the last rows of a prefill.
#include <gtest/gtest.h>

#include <vector>

#include "apply/decode_run.hpp"
#include "zerotune/apply/attention.hpp"
#include "zerotune/core/thread_pool.hpp"

namespace {

using test::decoded;
using test::index_t;
using test::scene;

template <class Kernel>
class few_queries : public ::testing::Test {
 public:
  using backend = typename Kernel::backend;
  using type = typename Kernel::type;
  using acc = zerotune::accumulator_t<type>;
  static constexpr index_t most =
      zerotune::impl::attention_kernel<backend, type, type, type>::few_queries;

  template <class Modifier, class Executor = zerotune::serial_executor>
  static decoded<type> attend(const scene& s, test::inputs<type>& in, const Modifier& m,
                              Executor&& executor = {}) {
    decoded<type> result(s, test::layout::contiguous);
    auto options = s.template options<zerotune::attention_options<acc>>();
    options.softmax_scale = static_cast<acc>(s.scale);
    options.lse = result.lse.view();
    zerotune::attention(backend{}, in.q.const_view(), in.k.const_view(), in.v.const_view(),
                        result.out.view(), m, options, executor);
    return result;
  }
  static decoded<type> decode(const scene& s, test::inputs<type>& in) {
    return test::decode<backend, type>(s, in, s.usual());
  }
  static scene shape(index_t q_len, index_t kv_len) {
    scene s{.batch = 2, .num_heads = 6, .num_kv_heads = 2, .q_len = q_len, .kv_len = kv_len};
    s.head_dim = 40, s.value_dim = 24;
    s.gammas = {2.0f, 0.0f, 1.0f, 0.5f, 8.0f, 1.0f};
    s.positions = {0, kv_len / 2};
    return s.complete();
  }
};
TYPED_TEST_SUITE(few_queries, test::attention_kernels, test::kernel_names);

// Back ends without a decode of their own go row by row and are compared with the oracle elsewhere.
TYPED_TEST(few_queries, go_by_decode) {
  if (this->most == 0) GTEST_SKIP() << "this back end has no shorter way";
  zerotune::thread_pool threads(3);
  for (index_t q_len = 1; q_len <= this->most; ++q_len)
    for (const index_t kv_len : {1, 64, 65, 1300}) {
      const scene s = this->shape(q_len, kv_len);
      test::inputs<typename TypeParam::type> in(s, 5);
      const auto expected = this->decode(s, in);
      EXPECT_TRUE(this->attend(s, in, s.usual()).same(expected)) << describe(s);
      EXPECT_TRUE(this->attend(s, in, s.usual(), threads).same(expected)) << describe(s);
    }
}

TYPED_TEST(few_queries, and_one_more_do_not) {
  if (this->most == 0) GTEST_SKIP() << "this back end has no shorter way";
  const scene s = this->shape(this->most + 1, 700);
  test::inputs<typename TypeParam::type> in(s, 5);
  const auto got = this->attend(s, in, s.usual());
  EXPECT_FALSE(got.same(this->decode(s, in))) << "the boundary is not where few_queries says";
  test::expect_close<typename TypeParam::type>(s, got, in.problem(s));
}

TYPED_TEST(few_queries, are_right_at_every_number) {
  for (index_t q_len = 1; q_len <= this->most + 2; ++q_len)
    for (const index_t kv_len : {q_len, index_t{63}, index_t{130}}) {
      const scene s = this->shape(q_len, kv_len);
      test::inputs<typename TypeParam::type> in(s, 7);
      test::expect_close<typename TypeParam::type>(s, this->attend(s, in, s.usual()),
                                                   in.problem(s));
    }
}

// More rows than a task of decode takes, and heads wider than its copies: row by row.
TYPED_TEST(few_queries, are_right_where_decode_does_not_take_them) {
  for (const bool wide : {false, true}) {
    scene s{.num_heads = wide ? 1 : 1030, .num_kv_heads = 1, .q_len = 1, .kv_len = 5};
    if (wide) s.head_dim = 4100;
    s.complete();
    test::inputs<typename TypeParam::type> in(s, 9);
    test::expect_close<typename TypeParam::type>(s, this->attend(s, in, s.usual()), in.problem(s));
  }
}

TYPED_TEST(few_queries, do_not_depend_on_the_batch) {
  const scene s = this->shape(3, 90);
  test::inputs<typename TypeParam::type> in(s, 11);
  const auto together = this->attend(s, in, s.usual());
  for (index_t b = 0; b < s.batch; ++b) {
    scene alone = s;
    alone.batch = 1;
    alone.positions = {s.initial(b)};
    test::inputs<typename TypeParam::type> own(alone, 1);
    const auto copy = [&](auto& to, const auto& from) {
      for (index_t i = 0; i < to.size(); ++i) to.at(i) = from.at(b * to.size() + i);
    };
    copy(own.q, in.q), copy(own.k, in.k), copy(own.v, in.v);
    const auto one = this->attend(alone, own, alone.usual());
    const auto elements = one.out.elements(), all = together.out.elements();
    const auto begin = all.begin() + b * static_cast<index_t>(elements.size());
    EXPECT_TRUE(test::same_bits(elements,
                                std::vector(begin, begin + static_cast<index_t>(elements.size()))));
  }
}

}  // namespace
