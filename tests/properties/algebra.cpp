// SPDX-License-Identifier: Apache-2.0
// What gamma means: copies of a cell, composition, ratios, one pass for every gamma, entropy.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "support/backends.hpp"
#include "support/random_scene.hpp"
#include "support/tolerance.hpp"
#include "zerotune/analysis/sink_mass.hpp"
#include "zerotune/apply/attention.hpp"
#include "zerotune/apply/weights.hpp"

namespace {

using test::index_t;
using test::scene;

template <class Kernel>
class algebra : public ::testing::Test {
 public:
  using type = typename Kernel::type;
  using acc = zerotune::accumulator_t<type>;
  struct outputs {
    std::vector<double> out, lse;
  };
  template <class Modifier>
  static outputs attend(test::tensor<type>& q, test::tensor<type>& k, test::tensor<type>& v,
                        const Modifier& m) {
    test::tensor<type> out(
        {q.view().extent(0), q.view().extent(1), q.view().extent(2), v.view().extent(3)});
    test::tensor<acc, 3> lse({q.view().extent(0), q.view().extent(1), q.view().extent(2)});
    zerotune::attention(typename Kernel::backend{}, q.const_view(), k.const_view(), v.const_view(),
                        out.view(), m, zerotune::attention_options<acc>{.lse = lse.view()});
    return {out.dense(), lse.dense()};
  }
};
TYPED_TEST_SUITE(algebra, test::attention_kernels, test::kernel_names);

// gamma = n is n copies of the initial token's key and value.
TYPED_TEST(algebra, gamma_n_equals_n_copies_of_the_initial_cell) {
  using T = typename TypeParam::type;
  using real = typename TestFixture::acc;
  for (const index_t copies : {2, 3, 7})
    for (const index_t others : {0, 1, 12, 70}) {
      scene s{.num_heads = 2, .num_kv_heads = 1, .q_len = 3, .kv_len = others + 1};
      s.causal = false;
      s.gammas.assign(2, static_cast<float>(copies));
      s.complete();
      test::inputs<T> in(s, 4);
      test::tensor<T> k({1, 1, others + copies, 8}), v({1, 1, others + copies, 8});
      for (index_t j = 0; j < others + copies; ++j)
        for (index_t c = 0; c < 8; ++c) {
          const index_t from = j < copies ? 0 : j - copies + 1;
          k.view()(0, 0, j, c) = in.k.view()(0, 0, from, c);
          v.view()(0, 0, j, c) = in.v.view()(0, 0, from, c);
        }
      const auto scaled = this->attend(in.q, in.k, in.v, s.sink());
      const auto copied = this->attend(in.q, k, v, zerotune::identity{});
      const auto naive = test::naive_attention<T>(in.problem(s));
      const auto exact = oracle::attend(in.problem(s));
      // Both are within the bound of the exact result, so they differ by twice that at most.
      EXPECT_TRUE(test::close<T>(scaled.out, exact.out, naive.out)) << copies << " " << others;
      EXPECT_TRUE(test::close<T>(copied.out, exact.out, naive.out)) << copies << " " << others;
      EXPECT_TRUE(test::close<real>(scaled.lse, exact.lse, naive.lse)) << copies;
      EXPECT_TRUE(test::close<real>(copied.lse, exact.lse, naive.lse)) << copies;
    }
}

TYPED_TEST(algebra, gammas_compose_by_multiplication) {
  using T = typename TypeParam::type;
  // Products that are exact in float, or the reference would have another gamma.
  const float pairs[][2] = {
      {2.0f, 0.25f}, {3.0f, 5.0f}, {0.5f, 0.0f}, {0x1p-64f, 0x1p64f}, {1.0f, 4.0f}};
  for (const auto& pair : pairs) {
    scene s{.num_heads = 2, .num_kv_heads = 2, .q_len = 6, .kv_len = 33};
    s.gammas.assign(2, pair[0] * pair[1]);
    s.complete();
    test::inputs<T> in(s, 4);
    const zerotune::initial_token first{pair[0]}, second{pair[1]};
    const auto once = this->attend(in.q, in.k, in.v, s.usual());
    const auto both = this->attend(in.q, in.k, in.v, zerotune::causal{} | first | second);
    const auto exact = oracle::attend(in.problem(s));
    const auto naive = test::naive_attention<T>(in.problem(s));
    EXPECT_TRUE(test::close<T>(once.out, exact.out, naive.out));
    EXPECT_TRUE(test::close<T>(both.out, exact.out, naive.out)) << pair[0] << " " << pair[1];
    // And the weights form one after the other.
    test::tensor<T> weights({1, 2, 6, 33});
    scene plain = s;
    plain.gammas.assign(2, 1.0f);
    weights.set(oracle::attend(in.problem(plain)).weights);
    zerotune::rescale_weights(typename TypeParam::backend{}, weights.view(),
                              zerotune::causal{} | first);
    zerotune::rescale_weights(typename TypeParam::backend{}, weights.view(),
                              zerotune::causal{} | second);
    const double unit = sizeof(T) == 2 ? 0.01 : sizeof(T) == 4 ? 1e-6 : 1e-14;
    // Not where the first gamma has already lost the weight in the element type.
    if (pair[0] > 1e-6f) {
      EXPECT_LT(test::max_error(weights.dense(), exact.weights), unit) << pair[0] << " " << pair[1];
    }
  }
}

TYPED_TEST(algebra, ratios_among_the_other_tokens_never_change) {
  using T = typename TypeParam::type;
  for (const float gamma : {0.0f, 0.01f, 3.0f, 1e4f}) {
    test::tensor<T> weights({1, 1, 4, 29});
    weights.randomise(5, 0.01, 0.06);
    const std::vector<double> before = weights.dense();
    zerotune::rescale_weights(typename TypeParam::backend{}, weights.view(),
                              zerotune::initial_token{gamma});
    const std::vector<double> after = weights.dense();
    const double unit = sizeof(T) == 2 ? 0x1p-7 : sizeof(T) == 4 ? 1e-6 : 1e-14;
    for (std::size_t row = 0; row < 4; ++row)
      for (std::size_t j = 2; j < 29; ++j) {
        const std::size_t a = row * 29 + 1, b = row * 29 + j;
        // Weights of 1e-5 are subnormal in float16: 6e-8 of absolute rounding.
        EXPECT_NEAR(after[b] * before[a], before[b] * after[a],
                    unit * before[b] * after[a] + (sizeof(T) == 2 ? 1e-8 : 0))
            << gamma;
      }
  }
}

// o'(gamma) = (1 - a'_0) o_rest + a'_0 v_0: one pass serves a whole sweep.
TYPED_TEST(algebra, one_pass_serves_every_gamma) {
  using T = typename TypeParam::type;
  scene s{.num_heads = 1, .num_kv_heads = 1, .q_len = 5, .kv_len = 21};
  s.q_starts = {16};
  s.gammas = {0.0f};
  s.complete();
  test::inputs<T> in(s, 14);
  const auto rest = this->attend(in.q, in.k, in.v, s.usual());
  for (const float gamma : {0.1f, 1.0f, 4.0f, 300.0f}) {
    s.gammas = {gamma};
    const auto whole = this->attend(in.q, in.k, in.v, s.usual());
    std::vector<double> expected;
    for (std::size_t i = 0; i < 5; ++i) {
      const double weight = 1 - std::exp(rest.lse[i] - whole.lse[i]);
      for (std::size_t c = 0; c < 8; ++c)
        expected.push_back((1 - weight) * rest.out[i * 8 + c] + weight * in.v.dense()[c]);
    }
    const auto exact = oracle::attend(in.problem(s)).out;
    const double slack = 2 * test::max_error(test::naive_attention<T>(in.problem(s)).out, exact);
    EXPECT_LT(test::max_error(whole.out, expected), 2 * slack + test::tolerance<T>::slack * 2)
        << gamma;
  }
}

// Entropy is not monotone in gamma: it peaks at a'_0 = 1 / (1 + exp(H_rest)).
TEST(attention_entropy, peaks_where_the_initial_weight_balances_the_rest) {
  test::tensor<double> weights({1, 1, 1, 12});
  test::tensor<double, 3> entropy({1, 1, 1});
  const auto entropy_at = [&](double gamma) {
    weights.randomise(3, 0.1, 1.0);
    double sum = 0;
    for (const double a : weights.dense()) sum += a;
    for (index_t j = 0; j < 12; ++j) weights.at(j) /= sum;
    zerotune::rescale_weights(weights.view(), zerotune::initial_token{static_cast<float>(gamma)});
    zerotune::attention_entropy(weights.const_view(), entropy.view());
    return entropy.at(0);
  };
  const double rest = entropy_at(0.0);
  double best = 0, best_weight = 0;
  for (double log_gamma = -6; log_gamma < 6; log_gamma += 0.001) {
    const double h = entropy_at(std::exp(log_gamma));
    if (h > best) best = h, best_weight = weights.at(0);
  }
  EXPECT_NEAR(best_weight, 1 / (1 + std::exp(rest)), 1e-3);
  EXPECT_GT(best, entropy_at(1e-6));
  EXPECT_GT(best, entropy_at(1e6));
  EXPECT_NEAR(best, std::log(1 + std::exp(rest)), 1e-6);
}

TEST(attention_entropy, is_that_of_the_definition) {
  test::tensor<float> weights({1, 1, 4, 4});
  weights.set({0.25, 0.25, 0.25, 0.25, 1, 0, 0, 0, 0, 0, 0, 0, 0.5, 0.5, 0.5, 0.5});
  test::tensor<double, 3> entropy({1, 1, 4});
  zerotune::attention_entropy(weights.const_view(), entropy.view());
  EXPECT_NEAR(entropy.at(0), std::log(4.0), 1e-12);
  EXPECT_EQ(entropy.at(1), 0.0);
  EXPECT_EQ(entropy.at(2), 0.0);                     // a row without weight
  EXPECT_NEAR(entropy.at(3), std::log(4.0), 1e-12);  // over the row's own sum
}

TEST(sink_mass, is_the_mean_over_rows_that_see_more_than_the_token) {
  scene s{.batch = 2, .num_heads = 2, .num_kv_heads = 1, .q_len = 6, .kv_len = 6};
  s.positions = {2, 0};
  s.complete();
  test::inputs<double> in(s, 2);
  test::tensor<double> weights({2, 2, 6, 6});
  const oracle::result r = oracle::attend(in.problem(s));
  weights.set(r.weights);
  test::tensor<double, 2> mass({2, 2});
  zerotune::sink_mass(weights.const_view(), mass.view(), s.sink(), zerotune::causal{});
  for (std::size_t b = 0; b < 2; ++b)
    for (std::size_t h = 0; h < 2; ++h) {
      double sum = 0;
      const std::size_t initial = b == 0 ? 2 : 0;
      for (std::size_t i = initial + 1; i < 6; ++i)
        sum += r.weights[((b * 2 + h) * 6 + i) * 6 + initial];
      EXPECT_NEAR(mass.view()(b, h), sum / static_cast<double>(5 - initial), 1e-14);
    }
}

}  // namespace
