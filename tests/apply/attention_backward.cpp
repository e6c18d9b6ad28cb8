// SPDX-License-Identifier: Apache-2.0
#include "zerotune/apply/attention_backward.hpp"

#include <gtest/gtest.h>

#include "apply/attention_backward_run.hpp"
#include "apply/attention_gradients.hpp"
#include "support/backends.hpp"

namespace {

using test::backward_run;
using test::index_t;
using test::scene;

scene random_scene(test::random_numbers& numbers) {
  scene s;
  s.batch = numbers.integer(1, 2);
  s.num_kv_heads = numbers.integer(1, 2);
  s.num_heads = s.num_kv_heads * numbers.integer(1, 3);
  s.q_len = numbers.integer(1, 9);
  s.kv_len = numbers.integer(s.q_len, 12);
  s.head_dim = numbers.integer(1, 9);
  s.value_dim = numbers.integer(1, 9);
  const float gammas[] = {0.25f, 1.0f, 8.0f, 0.0f};
  for (index_t h = 0; h < s.num_heads; ++h) s.gammas.push_back(gammas[numbers.integer(0, 3)]);
  if (numbers.integer(0, 1))
    for (index_t b = 0; b < s.batch; ++b) s.positions.push_back(numbers.integer(0, s.kv_len - 1));
  if (numbers.integer(0, 1))
    for (index_t b = 0; b < s.batch; ++b) s.kv_lengths.push_back(numbers.integer(0, s.kv_len));
  if (numbers.integer(0, 1))
    for (index_t b = 0; b < s.batch; ++b) s.q_starts.push_back(numbers.integer(-2, 9));
  if (numbers.integer(0, 1))
    for (index_t h = 0; h < s.num_heads; ++h)
      s.slopes.push_back(static_cast<float>(numbers.uniform(0, 0.5)));
  if (numbers.integer(0, 1))
    s.softcap = static_cast<double>(static_cast<float>(numbers.uniform(0.5, 3)));
  else if (numbers.integer(0, 1))
    s.window = numbers.integer(1, 6);
  return s.complete();
}

/// Every gradient within the bound of docs/design.md, section 6.
template <class T>
void expect_close(const backward_run<T>& run, const test::slope_of& slope = {}) {
  const auto initial = [&](index_t b) { return run.s.initial(b); };
  const auto d_out = run.d_out.dense();
  const auto problem = run.problem();
  const auto exact = [](double x) { return x; };
  const auto out = run.out.dense();
  const test::gradients expected =
      test::gradients_by_formula(problem, d_out, initial, out, exact, slope);
  test::gradients naive =
      test::gradients_by_formula(problem, d_out, initial, out, test::stored<T>, slope);
  for (auto* list : {&naive.q, &naive.k, &naive.v})
    for (double& x : *list) x = test::stored<T>(x);
  EXPECT_TRUE(test::close<T>(run.d_q.dense(), expected.q, naive.q)) << "d_q";
  EXPECT_TRUE(test::close<T>(run.d_k.dense(), expected.k, naive.k)) << "d_k";
  EXPECT_TRUE(test::close<T>(run.d_v.dense(), expected.v, naive.v)) << "d_v";
  EXPECT_TRUE(test::close<T>(run.d_log_gamma.dense(), expected.log_gamma, naive.log_gamma))
      << "d_log_gamma";
}

/// Runs with all biases, or with a softcap where the scene has one.
template <class Backend, class T>
void run_scene(Backend backend, backward_run<T>& run) {
  if (run.s.softcap > 0)
    run.both(backend, run.s.everything());
  else
    run.both(backend, run.s.biases());
}

TEST(attention_backward, formula_agrees_with_central_differences) {
  test::random_numbers numbers(11);
  for (int n = 0; n < 40; ++n) {
    const scene s = random_scene(numbers);
    const test::inputs<double> in(s, static_cast<std::uint64_t>(n) + 100);
    const auto d_out = test::tensor<double>({s.batch, s.num_heads, s.q_len, s.value_dim})
                           .randomise(static_cast<std::uint64_t>(n))
                           .dense();
    const auto initial = [&](index_t b) { return s.initial(b); };
    const auto p = in.problem(s);
    const test::gradients g = test::gradients_by_formula(p, d_out, initial);
    // Truncation and cancellation of the differences: some 1e-11 each.
    EXPECT_LT(test::max_error(g.q, test::gradient_by_differences(p, &oracle::problem::q, d_out)),
              1e-9);
    EXPECT_LT(test::max_error(g.k, test::gradient_by_differences(p, &oracle::problem::k, d_out)),
              1e-9);
    EXPECT_LT(test::max_error(g.v, test::gradient_by_differences(p, &oracle::problem::v, d_out)),
              1e-9);
    const auto log_gamma = oracle::gradient_by_differences(
        [&](double step) {
          oracle::problem scaled = p;
          scaled.rule.factor = [&s, step, factor = p.rule.factor](oracle::position at) {
            return factor(at) * (at.kv_pos == s.initial(at.batch) ? std::exp(step) : 1.0);
          };
          return scaled;
        },
        d_out);
    EXPECT_LT(test::max_error(g.log_gamma, log_gamma), 1e-9);
  }
}

template <class Kernel>
class attention_backward_kernel : public ::testing::Test {};
TYPED_TEST_SUITE(attention_backward_kernel, test::attention_kernels, test::kernel_names);

TYPED_TEST(attention_backward_kernel, random_shapes_and_modifiers) {
  using type = typename TypeParam::type;
  test::random_numbers numbers(5);
  for (int n = 0; n < 150; ++n) {
    SCOPED_TRACE(n);
    const auto order = test::all_layouts[n % 5];
    backward_run<type> run(random_scene(numbers), static_cast<std::uint64_t>(n), order);
    run_scene(typename TypeParam::backend{}, run);
    expect_close(run);
    EXPECT_TRUE(run.d_q.gaps_intact() && run.d_k.gaps_intact() && run.d_v.gaps_intact());
  }
}

/// Several tiles, their edges and widths that no vector divides.
TYPED_TEST(attention_backward_kernel, tiles_and_tails) {
  using type = typename TypeParam::type;
  for (const index_t length : {63, 64, 65, 131})
    for (const index_t dim : {15, 16, 40, 65}) {
      SCOPED_TRACE(std::to_string(length) + " x " + std::to_string(dim));
      scene s{.num_heads = 2, .q_len = length, .kv_len = length + 3, .head_dim = dim};
      s.value_dim = dim + 2;
      s.gammas = {4.0f, 0.0f};
      backward_run<type> run(s, static_cast<std::uint64_t>(length * dim));
      run.both(typename TypeParam::backend{}, run.s.usual());
      expect_close(run);
    }
}

TYPED_TEST(attention_backward_kernel, windows_skip_tiles) {
  using type = typename TypeParam::type;
  for (const bool causal : {true, false}) {
    scene s{.num_heads = 2, .q_len = 200, .kv_len = 230, .causal = causal, .window = 37};
    backward_run<type> run(s, 3);
    if (causal)
      run.both(typename TypeParam::backend{}, run.s.biases());
    else
      run.both(typename TypeParam::backend{},
               zerotune::sliding_window{run.s.window} | run.s.sink());
    expect_close(run);
  }
}

TYPED_TEST(attention_backward_kernel, large_logits) {
  using type = typename TypeParam::type;
  scene s{.num_heads = 2, .q_len = 20, .kv_len = 20, .head_dim = 16};
  s.gammas = {1e-30f, 1e30f};
  backward_run<type> run(s, 8, test::layout::contiguous, 30);
  run.both(typename TypeParam::backend{}, run.s.usual());
  for (const auto& list : {run.d_q.dense(), run.d_k.dense(), run.d_v.dense()})
    for (const double x : list) EXPECT_TRUE(std::isfinite(x));
  // The logits of some hundreds are off by more than the bound in float and below, and some
  // gradients are 0 but for rounding, so their relative error says nothing.
  if (!std::is_same_v<type, double>) return;
  const auto expected = test::gradients_by_formula(
      run.problem(), run.d_out.dense(), [](index_t) { return index_t{0}; }, run.out.dense());
  EXPECT_LT(test::max_error(run.d_q.dense(), expected.q), 1e-10);
  EXPECT_LT(test::max_error(run.d_k.dense(), expected.k), 1e-10);
  EXPECT_LT(test::max_error(run.d_v.dense(), expected.v), 1e-10);
}

/// A caller of one type for keys and others for queries, output and gradients.
TEST(attention_backward, element_types_mix) {
  scene s{.num_heads = 4, .num_kv_heads = 2, .q_len = 33, .kv_len = 40};
  s.complete();
  backward_run<float> whole(s, 4);
  // Both runs take the same numbers: what bfloat16 can hold.
  test::tensor<zerotune::bfloat16> k({1, 2, 40, 8}), v({1, 2, 40, 8}), d_out({1, 4, 33, 8});
  k.set(whole.in.k.dense()), v.set(whole.in.v.dense()), d_out.set(whole.d_out.dense());
  whole.in.k.set(k.dense()), whole.in.v.set(v.dense()), whole.d_out.set(d_out.dense());
  whole.both(zerotune::backend::scalar{}, s.usual());
  test::tensor<zerotune::float16> d_k({1, 2, 40, 8});
  test::tensor<float> d_q({1, 4, 33, 8}), d_v({1, 2, 40, 8});
  test::tensor<float, 2> d_log_gamma({1, 4});
  zerotune::attention_backward(whole.in.q.view(), k.view(), v.view(), whole.out.view(),
                               whole.lse.view(), d_out.view(), d_q.view(), d_k.view(), d_v.view(),
                               d_log_gamma.view(), s.usual());
  EXPECT_TRUE(test::same_bits(d_q.elements(), whole.d_q.elements()));
  EXPECT_TRUE(test::same_bits(d_v.elements(), whole.d_v.elements()));
  for (index_t i = 0; i < d_k.size(); ++i)
    EXPECT_EQ(test::to_double(d_k.at(i)),
              test::stored<zerotune::float16>(test::to_double(whole.d_k.at(i))));
  for (index_t i = 0; i < 4; ++i)
    EXPECT_EQ(d_log_gamma.at(i), static_cast<float>(whole.d_log_gamma.at(i)));
}

/// A bias that takes float and double, but no batch.
struct scalar_bias {
  template <std::floating_point Real>
  Real log_bias(zerotune::row r, Real kv_pos) const {
    return Real(-0.1) * (static_cast<Real>(r.q_pos) - kv_pos);
  }
  zerotune::tile_effect effect(int, zerotune::range, zerotune::range) const {
    return zerotune::tile_effect::apply;
  }
};

TYPED_TEST(attention_backward_kernel, a_bias_for_numbers_alone_goes_with_a_transform) {
  using type = typename TypeParam::type;
  scene s{.batch = 1, .num_heads = 2, .num_kv_heads = 1, .q_len = 40, .kv_len = 40};
  s.gammas = {2.0f, 0.5f};
  const auto modifier = zerotune::softcap{2.0f} | zerotune::causal{} | scalar_bias{};
  backward_run<type> run(s, 3), scalar(s, 3);
  run.both(typename TypeParam::backend{}, modifier);
  scalar.both(zerotune::backend::scalar{}, modifier);
  const double bound = sizeof(type) == 2 ? 2e-2 : 1e-4;
  for (std::size_t i = 0; i < run.d_q.dense().size(); ++i)
    ASSERT_NEAR(run.d_q.dense()[i], scalar.d_q.dense()[i], bound) << i;
  for (std::size_t i = 0; i < run.d_k.dense().size(); ++i)
    ASSERT_NEAR(run.d_k.dense()[i], scalar.d_k.dense()[i], 10 * bound) << i;
}

}  // namespace
