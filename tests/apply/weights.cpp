// SPDX-License-Identifier: Apache-2.0
// The weights form against the paper's formula in double, and what it must not touch.
#include "zerotune/apply/weights.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "support/backends.hpp"
#include "support/rows.hpp"
#include "support/tolerance.hpp"

namespace {

using test::index_t;
using test::layout;
using test::scene;
using test::scene_row;

template <class Kernel>
class weights_of : public ::testing::Test {
 public:
  using backend = typename Kernel::backend;
  using type = typename Kernel::type;

  /// Softmaxed weights of random logits over the keys that the scene's masks leave.
  static test::tensor<type> softmaxed(const scene& s, layout order, double spread = 2) {
    scene plain = s;
    plain.gammas.assign(plain.gammas.size(), 1.0f);
    plain.slopes.assign(plain.slopes.size(), 0.0f);
    plain.span_gamma = 1.0f;
    test::inputs<double> in(plain, 23, layout::contiguous, spread);
    test::tensor<type> weights({s.batch, s.num_heads, s.q_len, s.kv_len}, order);
    weights.set(oracle::attend(in.problem(plain)).weights);
    return weights;
  }

  template <class Modifier>
  static void expect_right(const scene& s, const Modifier& modifier, layout order) {
    test::tensor<type> weights = softmaxed(s, order);
    const std::vector<double> before = weights.dense();
    zerotune::rescale_weights(backend{}, weights.view(), modifier,
                              s.options<zerotune::sequence_options>());
    std::vector<double> expected = before, naive = before;
    std::size_t row = 0;
    test::for_each_row(s, [&](const scene_row& r) {
      const auto keys = static_cast<std::size_t>(s.kv_len);
      if (!r.only_excluded) {
        std::vector<double> factors = r.factors;
        for (std::size_t j = 0; j < keys; ++j) factors[j] *= std::exp(r.biases[j]);
        oracle::rescale(expected.data() + row * keys, factors);
        double old_sum = 0, sum = 0;
        for (std::size_t j = 0; j < keys; ++j) {
          double& a = naive[row * keys + j];
          old_sum += a;
          a = test::stored<type>(a * factors[j]);
          sum += a;
        }
        for (std::size_t j = 0; j < keys && sum > 0; ++j)
          naive[row * keys + j] = test::stored<type>(naive[row * keys + j] * (old_sum / sum));
      }
      ++row;
    });
    EXPECT_TRUE(test::close<type>(weights.dense(), expected, naive))
        << "kv_len " << s.kv_len << " layout " << static_cast<int>(order);
    EXPECT_TRUE(weights.gaps_intact());
  }
};
TYPED_TEST_SUITE(weights_of, test::form_kernels, test::kernel_names);

TYPED_TEST(weights_of, are_rescaled_as_the_paper_says) {
  for (const scene& s : test::typical_scenes())
    this->expect_right(s, s.usual(), layout::contiguous);
}

TYPED_TEST(weights_of, are_rescaled_with_any_strides) {
  for (const layout order : test::all_layouts)
    for (const scene& s : test::typical_scenes()) this->expect_right(s, s.sink(), order);
}

TYPED_TEST(weights_of, are_rescaled_by_every_bias_at_once) {
  const scene s = test::scene_of_all_biases();
  for (const layout order : test::all_layouts) this->expect_right(s, s.biases(), order);
}

TYPED_TEST(weights_of, of_fewer_dimensions_are_rescaled_too) {
  using T = typename TypeParam::type;
  const zerotune::initial_token sink{4.0f};
  test::tensor<T, 2> two({3, 5});
  test::tensor<T, 3> three({1, 3, 5});
  test::tensor<T, 4> four({1, 1, 3, 5});
  const typename TypeParam::backend tag{};
  zerotune::rescale_weights(tag, two.fill(0.2).view(), sink);
  zerotune::rescale_weights(tag, three.fill(0.2).view(), sink);
  zerotune::rescale_weights(tag, four.fill(0.2).view(), sink);
  EXPECT_TRUE(test::same_bits(two.elements(), four.elements()));
  EXPECT_TRUE(test::same_bits(three.elements(), four.elements()));
  EXPECT_NEAR(test::to_double(two.at(0)), 0.5, 0.01);  // 0.8 / (0.8 + 4 * 0.2)
}

// A library that trusts the weights to sum to 1 would change the sum; rounding made it what it is.
TYPED_TEST(weights_of, keep_their_rows_own_sum) {
  using T = typename TypeParam::type;
  for (const double sum : {0.5, 1.0, 2.0}) {
    test::tensor<T> weights({1, 1, 1, 9});
    weights.fill(sum / 9);
    const std::vector<double> before = weights.dense();
    zerotune::rescale_weights(typename TypeParam::backend{}, weights.view(),
                              zerotune::initial_token{8.0f});
    double old_sum = 0, new_sum = 0;
    for (const double a : before) old_sum += a;
    for (const double a : weights.dense()) new_sum += a;
    EXPECT_NEAR(new_sum, old_sum, sizeof(T) == 2 ? 0.01 * sum : 1e-6);
  }
}

// Measured on a closed form 1 + (gamma - 1) a_0: error 0.14 at gamma = 1e-6, a_0 = 0.99997. All of
// these weights are exact in float, so the reference sees the same row.
TYPED_TEST(weights_of, are_right_where_the_closed_form_of_d_cancels) {
  using T = typename TypeParam::type;
  for (const float gamma : {0.0f, 1e-30f, 1e-6f, 1e-3f, 1e3f, 1e38f})
    for (const double rest : {0x1p-14, 0x1p-8, 0x1p-2}) {
      test::tensor<T> weights({1, 1, 1, 5});
      weights.set({1 - rest, rest / 2, rest / 4, rest / 8, rest / 8});
      std::vector<double> expected = weights.dense();
      std::vector<double> factors(5, 1.0);
      factors[0] = static_cast<double>(gamma);
      oracle::rescale(expected.data(), factors);
      zerotune::rescale_weights(typename TypeParam::backend{}, weights.view(),
                                zerotune::initial_token{gamma});
      const double unit = sizeof(T) == 2 ? 0x1p-7 : 1e-6;  // a few roundings of the type
      const std::vector<double> actual = weights.dense();
      for (std::size_t j = 0; j < 5; ++j)
        EXPECT_NEAR(actual[j], expected[j], unit * expected[j] + 1e-7)
            << "gamma " << gamma << " rest " << rest << " key " << j;
    }
}

// 1/D overflows float where the rest of the row is tiny; the quotient is an ordinary number.
TYPED_TEST(weights_of, are_finite_where_one_over_d_is_not) {
  using T = typename TypeParam::type;
  const double tiny = sizeof(T) == 2 ? 0x1p-23 : 0x1p-140;  // subnormal in float16 and in float
  test::tensor<T> weights({1, 1, 1, 4});
  weights.set({1, tiny, tiny, 2 * tiny});
  zerotune::rescale_weights(typename TypeParam::backend{}, weights.view(),
                            zerotune::initial_token{0.0f});
  const std::vector<double> actual = weights.dense();
  EXPECT_EQ(actual[0], 0.0);
  EXPECT_NEAR(actual[1], 0.25, 2e-3);
  EXPECT_NEAR(actual[2], 0.25, 2e-3);
  EXPECT_NEAR(actual[3], 0.5, 4e-3);
}

// A row must not depend on the rows around it, which a kernel fetches or sums while it is at work.
TYPED_TEST(weights_of, come_out_the_same_row_by_row) {
  using T = typename TypeParam::type;
  const typename TypeParam::backend tag{};
  const auto check = [&](index_t keys, const auto& modifier) {
    const index_t queries = 37;
    // In the same memory both times: where a row lies may decide how a back end sums it.
    test::tensor<T> weights({1, 2, queries, keys});
    weights.randomise(31, 0.0, 2.0 / static_cast<double>(keys));
    const auto all = weights.view();
    zerotune::rescale_weights(tag, all, modifier);
    const auto together = weights.elements();
    weights.randomise(31, 0.0, 2.0 / static_cast<double>(keys));
    for (index_t i = 0; i < queries; ++i) {
      const index_t position = keys - queries + i;
      const zerotune::tensor_view<T, 4> one{
          all.pointer(0, 0, i, 0), {1, 2, 1, keys}, {all.stride(0), all.stride(1), keys, 1}};
      zerotune::sequence_options where;
      where.q_starts = zerotune::tensor_view<const index_t, 1>(&position, {1});
      zerotune::rescale_weights(tag, one, modifier, where);
    }
    EXPECT_TRUE(test::same_bits(together, weights.elements())) << keys;
  };
  const float gammas[] = {3.0f, 0.25f};
  const zerotune::initial_token sink{zerotune::tensor_view<const float, 1>(gammas, {2})};
  for (const index_t keys : {index_t{37}, index_t{255}, index_t{600}, index_t{4100}}) {
    check(keys, sink);
    check(keys, zerotune::causal{} | sink);
  }
}

}  // namespace
