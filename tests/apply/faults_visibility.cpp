// SPDX-License-Identifier: Apache-2.0
// The fault table of docs/design.md, section 5: masked rows, padding, NaN, empty shapes.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "support/backends.hpp"
#include "support/errors.hpp"
#include "support/forms.hpp"
#include "support/guarded_memory.hpp"
#include "support/rows.hpp"
#include "support/tolerance.hpp"

namespace {

using test::index_t;
using test::layout;
using test::scene;

constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

template <class Kernel>
class visibility : public ::testing::Test {
 public:
  using all_forms = test::forms<typename Kernel::backend, typename Kernel::type>;
};
TYPED_TEST_SUITE(visibility, test::fault_kernels, test::kernel_names);

template <class Kernel>
class attention_visibility : public ::testing::Test {
 public:
  using all_forms = test::forms<typename Kernel::backend, typename Kernel::type>;
};
TYPED_TEST_SUITE(attention_visibility, test::attention_fault_kernels, test::kernel_names);

TYPED_TEST(attention_visibility, fully_masked_row_is_zero_with_lse_minus_infinity) {
  scene s{.batch = 3, .num_heads = 1, .num_kv_heads = 1, .q_len = 4, .kv_len = 12};
  s.kv_lengths = {12, 0, 5};
  s.q_starts = {-4, 0, 1};  // before the first key; without keys; before the initial token
  s.positions = {0, 3, 4};
  for (const float gamma : {0.0f, 1.0f, 2.0f}) {
    s.gammas = {gamma};
    s.complete();
    typename TestFixture::all_forms f(s, 6);
    f.start(5);
    f.out.fill(nan_value), f.lse.fill(nan_value);
    f.call(5, s.usual());
    for (index_t row = 0; row < 11; ++row) {
      EXPECT_EQ(static_cast<double>(f.lse.at(row)), -oracle::infinity) << row;
      for (index_t c = 0; c < s.value_dim; ++c)
        EXPECT_EQ(test::to_double(f.out.at(row * s.value_dim + c)), 0.0);
    }
    EXPECT_TRUE(std::isfinite(f.lse.at(11))) << "the last row stands at the initial token";
  }
}

// A mask that is no interval hides with -inf: the row is fully masked though every key is visited.
struct hide_all {
  template <class Batch>
  Batch log_bias(zerotune::row r, Batch kv_pos) const {
    using zerotune::select;
    using real = zerotune::impl::value_of<Batch>;
    const Batch hidden(-std::numeric_limits<real>::infinity());
    return r.q_pos % 2 == 0 ? hidden : select(kv_pos < Batch(real(3)), hidden, Batch(real(0)));
  }
  zerotune::tile_effect effect(int, zerotune::range, zerotune::range) const {
    return zerotune::tile_effect::apply;
  }
};

TYPED_TEST(attention_visibility, minus_infinity_logits_have_weight_exactly_zero) {
  scene s{.batch = 1, .num_heads = 1, .num_kv_heads = 1, .q_len = 4, .kv_len = 40};
  s.complete();
  typename TestFixture::all_forms f(s, 6);
  for (index_t j = 0; j < 3; ++j)  // seen, hidden by a bias: finite values of any size do not leak
    for (index_t c = 0; c < s.value_dim; ++c)
      f.in.v.view()(0, 0, j, c) = test::from_double<typename TypeParam::type>(60000);
  f.call(5, hide_all{});
  for (index_t q = 0; q < 4; ++q)
    for (index_t c = 0; c < s.value_dim; ++c) {
      const double value = test::to_double(f.out.view()(0, 0, q, c));
      EXPECT_TRUE(q % 2 == 0 ? value == 0.0 : std::abs(value) < 1.0) << value;  // q_pos = 36 + q
    }
  EXPECT_TRUE(std::isinf(f.lse.at(0)) && f.lse.at(0) < 0);
}

// The weights of softmaxed -inf are 0, and stay exactly 0.
TYPED_TEST(visibility, weights_of_masked_keys_stay_exactly_zero) {
  using T = typename TypeParam::type;
  test::tensor<T> weights({1, 1, 1, 9});
  weights.set({0.5, 0, 0.25, 0, 0, 0.125, 0, 0.125, 0});
  zerotune::rescale_weights(typename TypeParam::backend{}, weights.view(),
                            zerotune::initial_token{0.01f});
  for (const index_t j : {1, 3, 4, 6, 8}) EXPECT_EQ(test::to_double(weights.at(j)), 0.0);
}

TYPED_TEST(attention_visibility, padding_and_keys_beyond_the_length_are_never_read) {
  using T = typename TypeParam::type;
  const std::size_t page = test::guarded_memory::page();
  // One page of keys before the initial token and one beyond the sequence's end: no access at all.
  const auto keys_per_page = static_cast<index_t>(page / (8 * sizeof(T)));
  test::guarded_memory k_memory(3 * page), v_memory(3 * page);
  k_memory.allow(page, page), v_memory.allow(page, page);
  test::random_numbers numbers(11);
  for (std::size_t i = page / sizeof(T); i < 2 * page / sizeof(T); ++i) {
    reinterpret_cast<T*>(k_memory.data())[i] = test::from_double<T>(numbers.uniform(-1, 1));
    reinterpret_cast<T*>(v_memory.data())[i] = test::from_double<T>(numbers.uniform(-1, 1));
  }
  const index_t kv_len = 3 * keys_per_page;
  const zerotune::tensor_view<const T, 4> k(reinterpret_cast<const T*>(k_memory.data()),
                                            {1, 1, kv_len, 8});
  const zerotune::tensor_view<const T, 4> v(reinterpret_cast<const T*>(v_memory.data()),
                                            {1, 1, kv_len, 8});
  test::tensor<T> q({1, 2, 3, 8}), out({1, 2, 3, 8});
  q.randomise(2);
  const std::vector<index_t> positions{keys_per_page}, lengths{2 * keys_per_page};
  const std::vector<float> gammas{0.0f, 3.0f};
  zerotune::attention_options<zerotune::accumulator_t<T>> options;
  options.kv_lengths = test::list_view(lengths);
  const auto sink = zerotune::initial_token{test::list_view(gammas)}.at(test::list_view(positions));
  zerotune::attention(typename TypeParam::backend{}, q.const_view(), k, v, out.view(), sink,
                      options);
  zerotune::attention(typename TypeParam::backend{}, q.const_view(), k, v, out.view(),
                      sink | zerotune::causal{}, options);
  for (const double x : out.dense()) EXPECT_TRUE(std::isfinite(x));
}

// NaN in the padding: a weight of 0 times NaN is NaN, so values of padding must not be read.
TYPED_TEST(attention_visibility, nan_in_the_padding_reaches_no_row) {
  using T = typename TypeParam::type;
  for (const layout order : {layout::contiguous, layout::transposed}) {
    scene s{.batch = 2, .num_heads = 2, .num_kv_heads = 1, .q_len = 20, .kv_len = 20};
    s.positions = {7, 0};
    s.kv_lengths = {20, 13};
    s.q_starts = {0, 0};
    s.gammas = {3.0f, 0.0f};
    s.complete();
    typename TestFixture::all_forms clean(s, 6, order), f(s, 6, order);
    for (index_t b = 0; b < 2; ++b)
      for (index_t j = 0; j < 20; ++j)
        if (b == 0 ? j < 7 : j >= 13)
          for (index_t c = 0; c < 8; ++c)
            f.in.k.view()(b, 0, j, c) = f.in.v.view()(b, 0, j, c) = test::from_double<T>(nan_value);
    clean.call(5, s.usual()), f.call(5, s.usual());
    EXPECT_TRUE(test::same_bits(f.out.elements(), clean.out.elements()));
    EXPECT_TRUE(test::same_bits(f.lse.elements(), clean.lse.elements()));
  }
}

TYPED_TEST(attention_visibility, nan_or_infinity_in_a_key_spoils_the_rows_that_see_it_only) {
  using T = typename TypeParam::type;
  for (const double poison : {nan_value, oracle::infinity})
    for (const index_t at : {0, 1, 5, 17, 33}) {
      scene s{.batch = 1, .num_heads = 2, .num_kv_heads = 2, .q_len = 40, .kv_len = 40};
      s.gammas = {2.0f, 1.0f};
      s.complete();
      typename TestFixture::all_forms clean(s, 6), f(s, 6);
      for (index_t i = 0; i < clean.in.q.size(); ++i)  // positive: the logit is +inf, not -inf
        f.in.q.at(i) = clean.in.q.at(i) =
            test::from_double<T>(0.1 + std::abs(test::to_double(clean.in.q.at(i))));
      f.in.k.view()(0, 0, at, 3) = test::from_double<T>(poison);
      clean.call(5, s.usual()), f.call(5, s.usual());
      for (index_t h = 0; h < 2; ++h)
        for (index_t i = 0; i < 40; ++i)
          for (index_t c = 0; c < 8; ++c) {
            const double value = test::to_double(f.out.view()(0, h, i, c));
            if (h == 0 && i >= at) {
              EXPECT_TRUE(std::isnan(value)) << "key " << at << " row " << i << " " << poison;
            } else {
              EXPECT_EQ(value, test::to_double(clean.out.view()(0, h, i, c)))
                  << "key " << at << " row " << i;
            }
          }
    }
}

TYPED_TEST(attention_visibility, nan_or_infinity_in_a_query_spoils_its_row_only) {
  using T = typename TypeParam::type;
  for (const double poison : {nan_value, oracle::infinity}) {
    scene s{.batch = 1, .num_heads = 1, .num_kv_heads = 1, .q_len = 40, .kv_len = 40};
    s.gammas = {2.0f};
    s.complete();
    typename TestFixture::all_forms clean(s, 6), f(s, 6);
    for (index_t i = 0; i < clean.in.k.size(); ++i)
      f.in.k.at(i) = clean.in.k.at(i) =
          test::from_double<T>(0.1 + std::abs(test::to_double(clean.in.k.at(i))));
    f.in.q.view()(0, 0, 9, 2) = test::from_double<T>(poison);
    clean.call(5, s.usual()), f.call(5, s.usual());
    for (index_t i = 0; i < 40; ++i)
      for (index_t c = 0; c < 8; ++c) {
        const double value = test::to_double(f.out.view()(0, 0, i, c));
        EXPECT_TRUE(i == 9 ? std::isnan(value)
                           : value == test::to_double(clean.out.view()(0, 0, i, c)))
            << i << " " << value;
      }
  }
}

TYPED_TEST(visibility, queries_or_batch_of_zero_are_a_no_op) {
  for (const bool no_queries : {true, false}) {
    scene s{.batch = no_queries ? 2 : 0, .num_heads = 2, .num_kv_heads = 1};
    s.q_len = no_queries ? 0 : 3, s.kv_len = 4;
    s.gammas = {2.0f, 0.0f};
    s.complete();
    typename TestFixture::all_forms f(s, 1);
    for (int form = 0; form < f.count; ++form) {
      const auto before = f.memory();
      f.call(form, s.usual());
      EXPECT_EQ(f.memory(), before) << f.names[form];
    }
  }
}

TYPED_TEST(attention_visibility, without_keys_the_output_is_zero_and_lse_minus_infinity) {
  scene s{.batch = 1, .num_heads = 2, .num_kv_heads = 1, .q_len = 3, .kv_len = 0};
  s.gammas = {2.0f, 0.0f};
  s.complete();
  typename TestFixture::all_forms f(s, 1);
  f.out.fill(5), f.lse.fill(5);
  f.call(5, s.usual());
  for (const double x : f.out.dense()) EXPECT_EQ(x, 0.0);
  for (const double x : f.lse.dense()) EXPECT_EQ(x, -oracle::infinity);
}

TYPED_TEST(visibility, without_keys_other_forms_write_nothing) {
  scene s{.batch = 1, .num_heads = 2, .num_kv_heads = 1, .q_len = 3, .kv_len = 0};
  s.gammas = {2.0f, 0.0f};
  s.complete();
  typename TestFixture::all_forms f(s, 1);
  for (int form = 0; form < 5; ++form) {
    const auto before = f.memory();
    f.call(form, s.usual());
    EXPECT_EQ(f.memory(), before) << f.names[form];
  }
}

TYPED_TEST(attention_visibility, head_dim_of_zero_is_an_error) {
  using T = typename TypeParam::type;
  for (const bool values : {false, true}) {
    scene s{.batch = 1, .num_heads = 1, .num_kv_heads = 1, .q_len = 1, .kv_len = 1};
    s.head_dim = values ? 4 : 0, s.value_dim = values ? 0 : 4;
    s.scale = 1;
    s.complete();
    test::inputs<T> in(s, 1);
    test::tensor<T> out({1, 1, 1, s.value_dim});
    const std::string message = test::message_of([&] {
      zerotune::attention(typename TypeParam::backend{}, in.q.const_view(), in.k.const_view(),
                          in.v.const_view(), out.view(), s.usual());
    });
    EXPECT_TRUE(test::mentions(message, {"attention", values ? "value_dim" : "head_dim", "got 0"}))
        << message;
  }
}

}  // namespace
