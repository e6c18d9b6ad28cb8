// SPDX-License-Identifier: Apache-2.0
// gamma_gradient against central differences, the closed form, and PyTorch's autograd.
#include "zerotune/analysis/sensitivity.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "support/backends.hpp"
#include "support/errors.hpp"
#include "support/random_scene.hpp"
#include "support/rows.hpp"
#include "support/tolerance.hpp"
#include "zerotune/analysis/sink_mass.hpp"

#if __has_include(<nlohmann/json.hpp>)
#include <nlohmann/json.hpp>
#define ZEROTUNE_TEST_JSON 1
#else
#define ZEROTUNE_TEST_JSON 0
#endif

namespace {

using test::index_t;
using test::scene;

#if defined(ZEROTUNE_REFERENCE_DIR)
const std::string reference_dir = ZEROTUNE_REFERENCE_DIR;
#elif defined(ZEROTUNE_TESTS_DIR)
const std::string reference_dir = ZEROTUNE_TESTS_DIR "/references";
#else
const std::string reference_dir =
    (std::filesystem::path(__FILE__).parent_path().parent_path() / "references").string();
#endif

template <class Kernel>
class gradient_of : public ::testing::Test {
 public:
  using type = typename Kernel::type;
  using acc = zerotune::accumulator_t<type>;

  /// The library's gradient per [batch, head], from the oracle's output and LSE stored in `type`.
  template <class Masks>
  static std::vector<double> gradient(const scene& s, test::inputs<type>& in,
                                      test::tensor<type>& d_out, const Masks& masks,
                                      test::layout order = test::layout::contiguous) {
    const oracle::result r = oracle::attend(in.problem(s));
    test::tensor<type> out({s.batch, s.num_heads, s.q_len, s.value_dim}, order);
    test::tensor<acc, 3> lse({s.batch, s.num_heads, s.q_len}, test::layout::transposed);
    test::tensor<double, 2> result({s.batch, s.num_heads}, test::layout::spread);
    out.set(r.out), lse.set(r.lse), result.fill(77);
    auto options = s.options<zerotune::output_options>();
    options.softmax_scale = s.scale;
    options.softcap = s.softcap;
    zerotune::gamma_gradient(typename Kernel::backend{}, out.const_view(), d_out.const_view(),
                             lse.const_view(), in.q.const_view(), in.k.const_view(),
                             in.v.const_view(), s.sink(), masks, result.view(), options);
    EXPECT_TRUE(result.gaps_intact());
    return result.dense();
  }
  /// Rounding of out, LSE and products, times the rows that are summed.
  static double unit(const scene& s) {
    const double rows = static_cast<double>(s.q_len * s.value_dim);
    return rows * (sizeof(type) == 8 ? 1e-14 : sizeof(type) == 4 ? 1e-6 : 0x1p-8);
  }
  static scene scaled(scene s, double step) {
    for (float& gamma : s.gammas)
      gamma = static_cast<float>(static_cast<double>(gamma) * std::exp(step));
    return s;
  }
};
TYPED_TEST_SUITE(gradient_of, test::form_kernels, test::kernel_names);

TYPED_TEST(gradient_of, random_scenes_is_that_of_the_formula) {
  using T = typename TypeParam::type;
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    scene s = test::random_scene(seed);
    if (seed % 3 == 0) s.softcap = 1.5;
    const auto order = test::all_layouts[seed % 5];
    test::inputs<T> in(s, seed, order);
    test::tensor<T> d_out({s.batch, s.num_heads, s.q_len, s.value_dim}, order);
    d_out.randomise(seed + 9);
    const auto expected = oracle::gradient_by_formula(in.problem(s), d_out.dense(), s.positions);
    const auto actual = this->gradient(s, in, d_out, zerotune::causal{}, order);
    EXPECT_LT(test::max_error(actual, expected), this->unit(s)) << seed;
  }
}

TEST(gradient_in_double, is_that_of_central_differences) {
  using fixture = gradient_of<test::kernel<zerotune::backend::scalar, double>>;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    scene s = test::random_scene(seed);
    if (seed % 4 == 0) s.softcap = 1.5;
    test::inputs<double> in(s, seed);
    test::tensor<double> d_out({s.batch, s.num_heads, s.q_len, s.value_dim});
    d_out.randomise(seed + 9);
    const auto problem_at = [&](double step) {
      oracle::problem p = in.problem(s);
      const auto factor = p.rule.factor;  // in double: float gammas would not step by 1e-3
      p.rule.factor = [=](oracle::position at) {
        const double f = factor(at);
        return at.kv_pos == s.initial(at.batch) ? f * std::exp(step) : f;
      };
      return p;
    };
    const auto expected = oracle::gradient_by_differences(problem_at, d_out.dense());
    const auto actual = fixture::gradient(s, in, d_out, zerotune::causal{});
    // Differences of fourth order with steps of 1e-3: 1e-12 of truncation and of rounding each.
    EXPECT_LT(test::max_error(actual, expected), 1e-9) << seed;
  }
}

TYPED_TEST(gradient_of, gamma_zero_and_rows_that_see_nothing_else_is_zero) {
  using T = typename TypeParam::type;
  scene s{.batch = 1, .num_heads = 3, .num_kv_heads = 1, .q_len = 1, .kv_len = 1};
  s.gammas = {0.0f, 1.0f, 7.0f};
  s.complete();
  test::inputs<T> in(s, 3);
  test::tensor<T> d_out({1, 3, 1, 8});
  d_out.randomise(4);
  EXPECT_EQ(this->gradient(s, in, d_out, zerotune::causal{}), (std::vector<double>{0, 0, 0}));
  scene zero{.batch = 1, .num_heads = 1, .num_kv_heads = 1, .q_len = 5, .kv_len = 5};
  zero.gammas = {0.0f};
  zero.complete();
  test::inputs<T> others(zero, 3);
  test::tensor<T> d_others({1, 1, 5, 8});
  d_others.randomise(4);
  EXPECT_EQ(this->gradient(zero, others, d_others, zerotune::causal{}), std::vector<double>{0});
}

// A gamma of 1e38 saturates: a'_0 is 1 and nothing depends on it any more, and nothing is NaN.
TYPED_TEST(gradient_of, extreme_gammas_vanishes) {
  using T = typename TypeParam::type;
  scene s{.batch = 1, .num_heads = 2, .num_kv_heads = 1, .q_len = 5, .kv_len = 5};
  s.gammas = {1e38f, 1e-38f};
  s.complete();
  test::inputs<T> in(s, 3);
  test::tensor<T> d_out({1, 2, 5, 8});
  d_out.randomise(4);
  for (const double d : this->gradient(s, in, d_out, zerotune::causal{}))
    EXPECT_NEAR(d, 0.0, this->unit(s));
}

TYPED_TEST(gradient_of, fully_masked_rows_is_finite) {
  using T = typename TypeParam::type;
  scene s{.batch = 2, .num_heads = 1, .num_kv_heads = 1, .q_len = 4, .kv_len = 8};
  s.kv_lengths = {0, 8};
  s.positions = {0, 6};
  s.gammas = {2.0f};
  s.complete();
  test::inputs<T> in(s, 3);
  test::tensor<T> d_out({2, 1, 4, 8});
  d_out.randomise(4);
  const auto actual = this->gradient(s, in, d_out, zerotune::causal{});
  EXPECT_EQ(actual[0], 0.0);
  EXPECT_TRUE(std::isfinite(actual[1]));
}

TEST(gradient, of_pytorch_is_met) {
#if ZEROTUNE_TEST_JSON
  std::ifstream file(reference_dir + "/attention_gradients.json");
  ASSERT_TRUE(file) << "missing: " << reference_dir;
  const auto document = nlohmann::json::parse(file);
  using fixture = gradient_of<test::kernel<zerotune::backend::scalar, double>>;
  int cases = 0;
  for (const auto& c : document.at("cases")) {
    scene s{.batch = c.at("batch"), .num_heads = c.at("num_heads")};
    s.num_kv_heads = c.at("num_kv_heads");
    s.q_len = c.at("q_len"), s.kv_len = c.at("kv_len");
    s.head_dim = s.value_dim = c.at("head_dim");
    s.scale = c.at("softmax_scale");
    s.gammas = c.at("gamma").get<std::vector<float>>();
    s.complete();
    const auto data = [&](const char* name) {
      return c.at(name).at("data").get<std::vector<double>>();
    };
    test::inputs<double> in(s, 0);
    in.q.set(data("q")), in.k.set(data("k")), in.v.set(data("v"));
    test::tensor<double> d_out({s.batch, s.num_heads, s.q_len, s.value_dim});
    test::tensor<double> out({s.batch, s.num_heads, s.q_len, s.value_dim});
    test::tensor<double, 3> lse({s.batch, s.num_heads, s.q_len});
    d_out.set(data("dout"));
    // The oracle and the library against PyTorch's weights form: output, LSE, gradient.
    const oracle::result r = oracle::attend(in.problem(s));
    EXPECT_LT(test::max_error(r.out, data("out")), 1e-13);
    EXPECT_LT(test::max_error(r.lse, data("lse")), 1e-13);
    zerotune::attention(in.q.const_view(), in.k.const_view(), in.v.const_view(), out.view(),
                        s.usual(), {.softmax_scale = s.scale, .lse = lse.view()});
    EXPECT_LT(test::max_error(out.dense(), data("out")), 1e-13);
    EXPECT_LT(test::max_error(lse.dense(), data("lse")), 1e-13);
    std::vector<double> per_head(static_cast<std::size_t>(s.num_heads), 0.0);
    const auto per_sequence = fixture::gradient(s, in, d_out, zerotune::causal{});
    for (std::size_t i = 0; i < per_sequence.size(); ++i)
      per_head[i % per_head.size()] += per_sequence[i];
    EXPECT_LT(test::max_error(per_head, data("dlog_gamma")), 1e-12);
    const std::vector<double> initial = data("initial_weights");
    for (std::size_t row = 0; row < initial.size(); ++row)
      EXPECT_NEAR(r.weights[row * static_cast<std::size_t>(s.kv_len)], initial[row], 1e-13);
    ++cases;
  }
  EXPECT_EQ(cases, 2);
#else
  GTEST_SKIP() << "nlohmann/json is not there";
#endif
}

// design.md: an output that overlaps an input is an error, in the analyses too.
TEST(analyses_refuse, outputs_over_their_inputs) {
  scene s{.batch = 1, .num_heads = 2, .num_kv_heads = 1, .q_len = 3, .kv_len = 4};
  s.complete();
  test::inputs<double> in(s, 1);
  test::tensor<double> out({1, 2, 3, 8}), d_out({1, 2, 3, 8}), weights({1, 2, 3, 4});
  test::tensor<double, 3> lse({1, 2, 3});
  const auto before = out.storage();
  using test::mentions;
  using test::message_of;
  EXPECT_TRUE(mentions(message_of([&] {
                         zerotune::gamma_gradient(
                             out.const_view(), d_out.const_view(), lse.const_view(),
                             in.q.const_view(), in.k.const_view(), in.v.const_view(), s.sink(),
                             zerotune::causal{},
                             zerotune::tensor_view<double, 2>(out.view().data(), {1, 2}));
                       }),
                       {"gamma_gradient", "gradient", "apart from out"}));
  EXPECT_TRUE(test::same_bits(before, out.storage()));
  const zerotune::tensor_view<double, 2> mass(weights.view().data(), {1, 2});
  const zerotune::tensor_view<double, 3> entropy(weights.view().data(), {1, 2, 3});
  EXPECT_TRUE(mentions(message_of([&] {
                         zerotune::sink_mass(weights.const_view(), mass, s.sink(),
                                             zerotune::causal{});
                       }),
                       {"sink_mass", "mass", "apart from weights"}));
  EXPECT_TRUE(
      mentions(message_of([&] { zerotune::attention_entropy(weights.const_view(), entropy); }),
               {"attention_entropy", "entropy", "apart from weights"}));
}

TEST(gamma_gradient_refuses, shapes_that_do_not_fit) {
  using extents = std::array<index_t, 4>;
  scene s{.batch = 1, .num_heads = 2, .num_kv_heads = 1, .q_len = 3, .kv_len = 4};
  s.complete();
  test::inputs<float> in(s, 1);
  const auto message = [&](const extents& out_shape, const extents& d_shape,
                           const std::array<index_t, 3>& lse_shape,
                           const std::array<index_t, 2>& to, double scale) {
    test::tensor<float> out(out_shape), d_out(d_shape);
    test::tensor<float, 3> lse(lse_shape);
    test::tensor<double, 2> gradient(to);
    gradient.fill(5);
    const auto before = gradient.storage();
    const std::string text = test::message_of([&] {
      zerotune::gamma_gradient(out.const_view(), d_out.const_view(), lse.const_view(),
                               in.q.const_view(), in.k.const_view(), in.v.const_view(), s.sink(),
                               zerotune::causal{}, gradient.view(), {.softmax_scale = scale});
    });
    EXPECT_TRUE(text.empty() || test::same_bits(before, gradient.storage()));
    return text;
  };
  const extents right{1, 2, 3, 8};
  const double nan_value = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(message(right, right, {1, 2, 3}, {1, 2}, 1), "");
  using test::mentions;
  EXPECT_TRUE(mentions(message({1, 2, 3, 7}, right, {1, 2, 3}, {1, 2}, 1),
                       {"gamma_gradient: out dim 3 (value_dim): expected 8, got 7"}));
  EXPECT_TRUE(mentions(message(right, {1, 2, 2, 8}, {1, 2, 3}, {1, 2}, 1),
                       {"gamma_gradient: d_out dim 2 (q_len): expected 3, got 2"}));
  EXPECT_TRUE(mentions(message(right, right, {1, 1, 3}, {1, 2}, 1), {"lse dim 1 (num_heads)"}));
  EXPECT_TRUE(mentions(message(right, right, {1, 2, 3}, {1, 1}, 1), {"gradient dim 1"}));
  EXPECT_TRUE(mentions(message(right, right, {1, 2, 3}, {2, 2}, 1), {"gradient dim 0 (batch)"}));
  EXPECT_TRUE(mentions(message(right, right, {1, 2, 3}, {1, 2}, nan_value), {"softmax_scale"}));
}

}  // namespace
