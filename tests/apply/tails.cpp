// SPDX-License-Identifier: Apache-2.0
// Every tail: queries, keys and coordinates from one to two tiles plus one, the others fixed.
#include <gtest/gtest.h>

#include "apply/decode_run.hpp"
#include "zerotune/apply/attention.hpp"

namespace {

using test::index_t;
using test::scene;

/// Beyond two of the widest tiles: panels of 48 queries, 32 keys, 64 columns of bfloat16 pairs.
constexpr index_t queries = 2 * 48 + 1, keys = 2 * 32 + 1, columns = 2 * 64 + 1;

template <class Kernel>
class every_tail : public ::testing::Test {
 public:
  using type = typename Kernel::type;
  using acc = zerotune::accumulator_t<type>;

  static void expect_right(index_t q_len, index_t kv_len, index_t head_dim, index_t value_dim) {
    scene s{.num_heads = 2, .num_kv_heads = 1, .q_len = q_len, .kv_len = kv_len};
    s.head_dim = head_dim, s.value_dim = value_dim;
    s.gammas = {3.0f, 0.25f};
    s.complete();
    test::inputs<type> in(s, static_cast<std::uint64_t>(q_len + kv_len + head_dim));
    test::decoded<type> got(s);
    zerotune::attention_options<acc> options;
    options.lse = got.lse.view();
    zerotune::attention(typename Kernel::backend{}, in.q.const_view(), in.k.const_view(),
                        in.v.const_view(), got.out.view(), s.usual(), options);
    test::expect_close<type>(s, got, in.problem(s));
  }
};
TYPED_TEST_SUITE(every_tail, test::attention_fault_kernels, test::kernel_names);

TYPED_TEST(every_tail, of_queries) {
  for (index_t q_len = 1; q_len <= queries; ++q_len) {
    this->expect_right(q_len, q_len, 16, 8);
    this->expect_right(q_len, q_len + 40, 8, 16);
  }
}

TYPED_TEST(every_tail, of_keys) {
  for (index_t kv_len = 1; kv_len <= keys; ++kv_len)
    for (const index_t q_len : {1, 17, 50}) this->expect_right(q_len, kv_len, 16, 8);
}

TYPED_TEST(every_tail, of_coordinates) {
  for (index_t dim = 1; dim <= columns; ++dim) {
    this->expect_right(20, 33, dim, 8);
    this->expect_right(20, 33, 8, dim);
    this->expect_right(2, 33, dim, dim);  // by decode
  }
}

}  // namespace
