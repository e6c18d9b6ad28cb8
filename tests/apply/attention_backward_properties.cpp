// SPDX-License-Identifier: Apache-2.0
// What holds of attention_backward whatever the numbers are (docs/design.md, sections 2, 5 and 6).
#include <gtest/gtest.h>

#include "apply/attention_backward_run.hpp"
#include "apply/attention_gradients.hpp"
#include "support/backends.hpp"
#include "zerotune/analysis/sensitivity.hpp"

namespace {

using test::backward_run;
using test::index_t;
using test::scene;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

template <class Kernel>
class attention_backward_property : public ::testing::Test {};
TYPED_TEST_SUITE(attention_backward_property, test::attention_kernels, test::kernel_names);

TYPED_TEST(attention_backward_property, threads_and_workspace_do_not_matter) {
  using type = typename TypeParam::type;
  using acc = zerotune::accumulator_t<type>;
  const typename TypeParam::backend backend{};
  scene s{.batch = 3, .num_heads = 6, .num_kv_heads = 3, .q_len = 70, .kv_len = 90};
  s.gammas = {0.5f, 1.0f, 2.0f, 0.0f, 8.0f, 1.0f};
  s.kv_lengths = {90, 75, 0};
  backward_run<type> serial(s, 2);
  serial.both(backend, serial.s.usual());
  for (const int threads : {2, 3, 7}) {
    zerotune::thread_pool pool(threads);
    backward_run<type> run(s, 2);
    run.forward(backend, run.s.usual());
    run.backward(backend, run.s.usual(), pool);
    EXPECT_TRUE(run.same_gradients(serial)) << threads;
  }
  backward_run<type> run(s, 2);
  run.forward(backend, run.s.usual());
  zerotune::thread_pool pool(4);
  for (const index_t slots : {1, 2, 9, 20}) {
    const index_t bytes = zerotune::attention_backward_workspace_bytes(
        run.in.q.view(), run.in.k.view(), run.in.v.view(), slots);
    // Every number of it is NaN.
    std::vector<std::byte> memory(static_cast<std::size_t>(bytes), std::byte{0xff});
    auto options = run.backward_options();
    options.workspace = zerotune::view_of(memory);
    zerotune::attention_backward(backend, run.in.q.view(), run.in.k.view(), run.in.v.view(),
                                 run.out.view(), run.lse.view(), run.d_out.view(), run.d_q.view(),
                                 run.d_k.view(), run.d_v.view(), run.d_log_gamma.view(),
                                 run.s.usual(), options, pool);
    EXPECT_TRUE(run.same_gradients(serial)) << slots;
  }
}

TYPED_TEST(attention_backward_property, strides_do_not_matter) {
  using type = typename TypeParam::type;
  const typename TypeParam::backend backend{};
  scene s{.batch = 2, .num_heads = 4, .num_kv_heads = 2, .q_len = 70, .kv_len = 70, .head_dim = 16};
  s.value_dim = 32;
  backward_run<type> whole(s, 6);
  whole.both(backend, whole.s.usual());
  for (const auto order : test::all_layouts) {
    backward_run<type> run(s, 6, order);
    // Sums of strided rows take another order: the same forward results for both.
    run.out.set(whole.out.dense()), run.lse.set(whole.lse.dense());
    run.backward(backend, run.s.usual());
    EXPECT_TRUE(run.same_gradients(whole));
    EXPECT_TRUE(run.d_q.gaps_intact() && run.d_k.gaps_intact() && run.d_v.gaps_intact() &&
                run.d_log_gamma.gaps_intact());
  }
}

TYPED_TEST(attention_backward_property, gamma_one_is_identity_bit_by_bit) {
  using type = typename TypeParam::type;
  const typename TypeParam::backend backend{};
  const scene s{.num_heads = 4, .num_kv_heads = 2, .q_len = 65, .kv_len = 80};
  backward_run<type> ones(s, 3), plain(s, 3);
  ones.both(backend, zerotune::causal{} | zerotune::initial_token{1.0f});
  plain.both(backend, zerotune::causal{});
  EXPECT_TRUE(ones.same_gradients(plain));
}

/// gamma = 0 where nothing else is seen counts as unmodified; its gradient is 0.
TYPED_TEST(attention_backward_property, rows_that_see_the_initial_token_only) {
  using type = typename TypeParam::type;
  const typename TypeParam::backend backend{};
  const scene s{.num_heads = 2, .q_len = 1, .kv_len = 1};
  for (const float gamma : {0.0f, 0.5f, 8.0f}) {
    backward_run<type> run(s, 9);
    run.both(backend, zerotune::causal{} | zerotune::initial_token{gamma});
    for (const double x : run.d_log_gamma.dense()) EXPECT_EQ(x, 0.0);
    for (const double x : run.d_q.dense()) EXPECT_EQ(x, 0.0);
    for (const double x : run.d_k.dense()) EXPECT_EQ(x, 0.0);
    std::vector<double> expected(static_cast<std::size_t>(s.value_dim), 0.0);
    for (index_t i = 0; i < run.d_out.size(); ++i)
      expected[static_cast<std::size_t>(i % s.value_dim)] += test::to_double(run.d_out.at(i));
    EXPECT_LT(test::max_error(run.d_v.dense(), expected), 1e-2);
  }
}

TYPED_TEST(attention_backward_property, unseen_keys_are_not_read_and_have_gradient_zero) {
  using type = typename TypeParam::type;
  const typename TypeParam::backend backend{};
  scene s{.batch = 2, .num_heads = 2, .num_kv_heads = 1, .q_len = 20, .kv_len = 150};
  s.gammas = {2.0f, 0.25f};
  s.kv_lengths = {100, 30};
  s.q_starts = {40, 0};
  s.positions = {20, 3};
  backward_run<type> clean(s, 12), dirty(s, 12);
  const auto seen = [](index_t b, index_t j) {
    return b == 0 ? j >= 20 && j < 60 : j >= 3 && j < 20;
  };
  for (index_t i = 0; i < dirty.in.k.size(); ++i)
    if (!seen(i / 8 / 150, i / 8 % 150))
      dirty.in.k.at(i) = dirty.in.v.at(i) = test::from_double<type>(nan);
  clean.both(backend, clean.s.usual());
  dirty.both(backend, dirty.s.usual());
  EXPECT_TRUE(dirty.same_gradients(clean));
  for (index_t i = 0; i < dirty.d_k.size(); ++i)
    if (!seen(i / 8 / 150, i / 8 % 150)) {
      EXPECT_EQ(test::to_double(dirty.d_k.at(i)), 0.0);
      EXPECT_EQ(test::to_double(dirty.d_v.at(i)), 0.0);
    }
}

/// A NaN stays with the rows that see it and the keys that those see.
TYPED_TEST(attention_backward_property, not_a_number_does_not_spread) {
  using type = typename TypeParam::type;
  const typename TypeParam::backend backend{};
  const scene s{.q_len = 40, .kv_len = 40};
  constexpr index_t bad = 25;
  for (const int where : {0, 1, 2, 3}) {
    SCOPED_TRACE(where);
    backward_run<type> run(s, 5);
    auto& spoilt = where == 0   ? run.in.q
                   : where == 1 ? run.in.k
                   : where == 2 ? run.in.v
                                : run.d_out;
    spoilt.at(bad * 8 + 3) = test::from_double<type>(where == 0 ? oracle::infinity : nan);
    run.both(backend, run.s.usual());
    for (index_t i = 0; i < 40; ++i) {
      // Causal: row `bad` sees the keys up to itself; key `bad` is seen by it and later rows.
      const bool row = where == 0 || where == 3 ? i == bad : i >= bad;
      const bool key = where == 0 || where == 3 ? i <= bad : true;
      for (index_t c = 0; c < 8; ++c) {
        const index_t at = i * 8 + c;
        // A value that is no number may reach the other rows of its tile.
        if (where != 2 || row) {
          EXPECT_EQ(std::isnan(test::to_double(run.d_q.at(at))), row) << i;
        }
        EXPECT_EQ(std::isnan(test::to_double(run.d_k.at(at))), key) << i;
        // What a value holds says nothing of its weight.
        if (where != 2) {
          EXPECT_EQ(std::isnan(test::to_double(run.d_v.at(at))), key) << i;
        }
      }
    }
  }
}

TYPED_TEST(attention_backward_property, empty_extents) {
  using type = typename TypeParam::type;
  const typename TypeParam::backend backend{};
  for (const scene& s : {scene{.batch = 0, .q_len = 3, .kv_len = 3}, scene{.q_len = 0, .kv_len = 3},
                         scene{.q_len = 3, .kv_len = 0}}) {
    backward_run<type> run(s, 1);
    run.both(backend, run.s.usual());
    for (const auto& list :
         {run.d_q.dense(), run.d_k.dense(), run.d_v.dense(), run.d_log_gamma.dense()})
      for (const double x : list) EXPECT_EQ(x, 0.0);
  }
}

/// d_log_gamma is that of gamma_gradient, which knows the initial token from its argument.
TYPED_TEST(attention_backward_property, agrees_with_gamma_gradient) {
  using type = typename TypeParam::type;
  const typename TypeParam::backend backend{};
  scene s{.batch = 2, .num_heads = 4, .num_kv_heads = 2, .q_len = 70, .kv_len = 80};
  s.gammas = {0.25f, 1.0f, 4.0f, 0.0f};
  s.positions = {5, 0};
  backward_run<type> run(s, 21);
  run.both(backend, run.s.usual());
  test::tensor<double, 2> expected({2, 4});
  zerotune::gamma_gradient(backend, run.out.const_view(), run.d_out.const_view(),
                           run.lse.const_view(), run.in.q.view(), run.in.k.view(), run.in.v.view(),
                           run.s.sink(), zerotune::causal{}, expected.view());
  const double bound = sizeof(type) == sizeof(double) ? 1e-13 : 1e-5;
  EXPECT_LT(test::max_error(run.d_log_gamma.dense(), expected.dense()), bound);
}

/// A user's own transform: the slope follows from the arithmetic, with select and functions.
struct leaky_bound {
  template <class Batch>
  Batch transform_logit(zerotune::row, Batch, Batch logit) const {
    using zerotune::select;
    using real = zerotune::impl::value_of<Batch>;
    const Batch half(real(0.5)), limit(real(0.25));
    return select(logit < limit, logit, limit + half * (logit - limit)) / Batch(real(2));
  }
  zerotune::tile_effect effect(int, zerotune::range, zerotune::range) const {
    return zerotune::tile_effect::apply;
  }
};
TYPED_TEST(attention_backward_property, a_users_transform_is_differentiated) {
  using type = typename TypeParam::type;
  const typename TypeParam::backend backend{};
  scene s{.num_heads = 2, .q_len = 30, .kv_len = 40};
  backward_run<type> run(s, 14);
  const auto modifier = leaky_bound{} | zerotune::softcap{0.75f} | run.s.usual();
  run.both(backend, modifier);
  // The exact weights follow from an oracle whose logits are replaced by way of factors.
  oracle::problem p = run.problem();
  const auto transformed = [](double l) {
    const double y = (l < 0.25 ? l : 0.25 + 0.5 * (l - 0.25)) / 2;
    return 0.75 * std::tanh(y / 0.75);
  };
  p.rule.factor = [p, transformed](oracle::position at) {
    double l = 0;
    for (index_t c = 0; c < p.head_dim; ++c)
      l += p.q[p.row(at.batch, at.head, at.q_pos - p.start(at.batch)) * 8 +
               static_cast<std::size_t>(c)] *
           p.k[p.key(at.batch, at.head, at.kv_pos, 8) + static_cast<std::size_t>(c)];
    l *= p.scale;
    return std::exp(transformed(l) - l);
  };
  const auto slope = [](double l) {
    const double inner = (l < 0.25 ? l : 0.25 + 0.5 * (l - 0.25)) / 2;
    const double t = std::tanh(inner / 0.75);
    return (l < 0.25 ? 0.5 : 0.25) * (1 - t * t);
  };
  const auto initial = [](index_t) { return index_t{0}; };
  const auto exact = [](double x) { return x; };
  const auto out = run.out.dense();
  const auto d_out = run.d_out.dense();
  const auto expected = test::gradients_by_formula(p, d_out, initial, out, exact, slope);
  auto naive = test::gradients_by_formula(p, d_out, initial, out, test::stored<type>, slope);
  for (auto* list : {&naive.q, &naive.k, &naive.v})
    for (double& x : *list) x = test::stored<type>(x);
  EXPECT_TRUE(test::close<type>(run.d_q.dense(), expected.q, naive.q));
  EXPECT_TRUE(test::close<type>(run.d_k.dense(), expected.k, naive.k));
  EXPECT_TRUE(test::close<type>(run.d_v.dense(), expected.v, naive.v));
}

}  // namespace
