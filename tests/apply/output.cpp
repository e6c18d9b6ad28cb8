// SPDX-License-Identifier: Apache-2.0
// The output form: a black box's (o, L), or (o, a_0), against the modified attention.
#include "zerotune/apply/output.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "support/backends.hpp"
#include "support/rows.hpp"
#include "support/tolerance.hpp"
#include "zerotune/policy/token_span.hpp"

namespace {

using test::index_t;
using test::layout;
using test::scene;
using test::scene_row;
using zerotune::row_status;

template <class Kernel>
class output_of : public ::testing::Test {
 public:
  using backend = typename Kernel::backend;
  using type = typename Kernel::type;
  using acc = zerotune::accumulator_t<type>;

  /// The black box: attention with the masks and without the factors and biases of the scene.
  static scene black_box(scene s) {
    s.gammas.assign(s.gammas.size(), 1.0f);
    s.slopes.assign(s.slopes.size(), 0.0f);
    s.span_gamma = 1.0f;
    return s;
  }

  enum class from { lse, mass };

  template <class Modifier>
  static void expect_right(const scene& s, const Modifier& modifier, from what, layout order,
                           double spread = 1.5) {
    test::inputs<type> in(s, 41, order, spread);
    const scene plain = black_box(s);
    const oracle::result before = oracle::attend(in.problem(plain));
    const oracle::result expected = oracle::attend(in.problem(s));
    oracle::result naive = test::naive_attention<type>(in.problem(s));
    test::tensor<type> out({s.batch, s.num_heads, s.q_len, s.value_dim}, order);
    test::tensor<acc, 3> lse({s.batch, s.num_heads, s.q_len}, layout::spread);
    test::tensor<type, 3> mass({s.batch, s.num_heads, s.q_len}, layout::transposed);
    out.set(before.out), lse.set(before.lse);
    for (index_t row = 0; row < mass.size(); ++row)
      mass.at(row) = test::from_double<type>(before.weights[static_cast<std::size_t>(
          row * s.kv_len + s.initial(row / s.q_len / s.num_heads))]);
    const std::vector<double> rounded = out.dense();
    auto options = s.options<zerotune::output_options>();
    options.softmax_scale = s.scale;
    options.softcap = s.softcap;
    options.min_d = 0.05;
    const zerotune::output_report report =
        what == from::lse
            ? zerotune::correct_output(backend{}, out.view(), lse.view(), in.q.const_view(),
                                       in.k.const_view(), in.v.const_view(), modifier, options)
            : zerotune::correct_output_by_mass(backend{}, out.view(), mass.const_view(),
                                               in.v.const_view(), modifier, options);
    EXPECT_EQ(report.num_heads, s.num_heads);
    EXPECT_EQ(report.q_len, s.q_len);
    ASSERT_EQ(static_cast<index_t>(report.rows.size()), s.batch * s.num_heads * s.q_len);

    std::vector<double> values = out.dense(), sums = lse.dense();
    std::vector<double> wanted = expected.out, wanted_sums = expected.lse;
    const auto width = static_cast<std::size_t>(s.value_dim);
    std::size_t row = 0;
    test::for_each_row(s, [&](const scene_row& r) {
      for (std::size_t c = 0; c < width; ++c)
        EXPECT_TRUE(report.rows[row] == row_status::corrected ||
                    values[row * width + c] == rounded[row * width + c])
            << "a row that is not corrected is not written";
      if (report.rows[row] == row_status::amplified) {
        EXPECT_LT(divisor(r, before, row, s), 0.06);
        for (std::size_t c = 0; c < width; ++c) values[row * width + c] = wanted[row * width + c];
        sums[row] = wanted_sums[row];
      } else {
        EXPECT_GT(divisor(r, before, row, s), 0.04) << "row " << row;
      }
      // The formula done plainly from the rounded output: that rounding is amplified by 1/D.
      const auto keys = static_cast<std::size_t>(s.kv_len);
      for (std::size_t c = 0; c < width; ++c) {
        const std::size_t i = row * width + c;
        if (report.rows[row] != row_status::corrected) continue;
        double sum = rounded[i], d = 1;
        for (std::size_t j = 0; j < keys; ++j) {
          const double weight = before.weights[row * keys + j];
          const double a = what == from::mass ? test::stored<type>(weight) : weight;
          const double change = std::expm1(r.biases[j] + std::log(r.factors[j])) * a;
          if (change == 0) continue;
          d += change;
          sum += change *
                 test::to_double(in.v.view()(r.batch, r.head / (s.num_heads / s.num_kv_heads),
                                             static_cast<index_t>(j), static_cast<index_t>(c)));
        }
        naive.out[i] = test::stored<type>(sum / d);
      }
      ++row;
    });
    EXPECT_TRUE(test::close<type>(values, wanted, naive.out)) << s.kv_len;
    EXPECT_TRUE(what == from::mass || test::close<acc>(sums, wanted_sums, naive.lse)) << s.kv_len;
    EXPECT_TRUE(out.gaps_intact() && lse.gaps_intact());
  }
  /// D of a row; 1 where the row stays as it was.
  static double divisor(const scene_row& r, const oracle::result& before, std::size_t row,
                        const scene& s) {
    if (r.only_excluded || !r.sees_any()) return 1;
    double d = 0;
    for (std::size_t j = 0; j < r.factors.size(); ++j)
      d += before.weights[row * static_cast<std::size_t>(s.kv_len) + j] * r.factors[j] *
           std::exp(r.biases[j]);
    return d;
  }
};
TYPED_TEST_SUITE(output_of, test::form_kernels, test::kernel_names);

TYPED_TEST(output_of, a_kernel_with_lse_is_corrected) {
  for (const scene& s : test::typical_scenes())
    this->expect_right(s, s.usual(), TestFixture::from::lse, layout::contiguous);
}
TYPED_TEST(output_of, a_kernel_with_the_initial_weight_is_corrected) {
  for (const scene& s : test::typical_scenes())
    this->expect_right(s, s.usual(), TestFixture::from::mass, layout::contiguous);
}
TYPED_TEST(output_of, any_strides_are_corrected) {
  for (const layout order : test::all_layouts)
    for (const scene& s : test::typical_scenes()) {
      this->expect_right(s, s.usual(), TestFixture::from::lse, order);
      this->expect_right(s, s.usual(), TestFixture::from::mass, order);
    }
}
TYPED_TEST(output_of, every_head_dimension_is_corrected) {
  for (const index_t dim : {1, 3, 7, 8, 9, 64, 65, 80, 96, 128, 131}) {
    scene s{.num_heads = 2, .num_kv_heads = 1, .q_len = 3, .kv_len = 6, .head_dim = dim};
    s.value_dim = dim == 8 ? 130 : dim;
    s.gammas = {4.0f, 0.25f};
    s.complete();
    this->expect_right(s, s.usual(), TestFixture::from::lse, layout::contiguous);
  }
}
TYPED_TEST(output_of, a_softcapped_kernel_is_corrected) {
  scene s{.num_heads = 2, .num_kv_heads = 1, .q_len = 9, .kv_len = 9};
  s.gammas = {4.0f, 0.25f};
  s.softcap = 1.5;
  s.complete();
  this->expect_right(s, s.usual(), TestFixture::from::lse, layout::contiguous, 3.0);
}
TYPED_TEST(output_of, every_bias_at_once_is_corrected) {
  const scene s = test::scene_of_all_biases();
  this->expect_right(s, s.biases(), TestFixture::from::lse, layout::contiguous);
}

// The errors of o are amplified by 1/D: below min_d the row is the host's, and it is listed.
TYPED_TEST(output_of, amplified_rows_are_untouched_and_listed) {
  using T = typename TypeParam::type;
  using real = typename TestFixture::acc;
  scene s{.batch = 2, .num_heads = 4, .num_kv_heads = 2, .q_len = 3, .kv_len = 3, .head_dim = 1};
  s.value_dim = 2;
  s.gammas = {0.0f, 1.0f, 0.0f, 2.0f};
  s.complete();
  test::tensor<T> q({2, 4, 3, 1}), k({2, 2, 3, 1}), v({2, 2, 3, 2}), out({2, 4, 3, 2});
  test::tensor<real, 3> lse({2, 4, 3});
  q.fill(1), v.randomise(3);
  for (index_t b = 0; b < 2; ++b)
    for (index_t h = 0; h < 2; ++h) k.view()(b, h, 0, 0) = test::from_double<T>(b == 1 ? 30 : 1);
  const oracle::result before =
      oracle::attend(this->black_box(s).problem(q.dense(), k.dense(), v.dense()));
  out.set(before.out), lse.set(before.lse);
  const std::vector<T> old = out.elements();
  const auto old_lse = lse.elements();
  const auto report = zerotune::correct_output(
      typename TypeParam::backend{}, out.view(), lse.view(), q.const_view(), k.const_view(),
      v.const_view(), s.usual(), zerotune::output_options{.softmax_scale = 1});
  // Sequence 1 has a_0 = 1 - 2e-13: heads 0 and 2 in rows 1 and 2. Row 0 sees nothing else.
  std::set<std::vector<index_t>> listed;
  for (const auto& r : report.amplified()) {
    listed.insert({r.batch, r.head, r.q});
    const auto row = static_cast<std::size_t>((r.batch * 4 + r.head) * 3 + r.q);
    for (std::size_t c = 0; c < 2; ++c)
      EXPECT_EQ(test::to_double(out.elements()[row * 2 + c]), test::to_double(old[row * 2 + c]));
    EXPECT_EQ(lse.elements()[row], old_lse[row]);
  }
  EXPECT_EQ(listed, (std::set<std::vector<index_t>>{{1, 0, 1}, {1, 0, 2}, {1, 2, 1}, {1, 2, 2}}));
  EXPECT_EQ(report.count(row_status::amplified), 4);
  EXPECT_EQ(report.count(row_status::amplified) + report.count(row_status::corrected) +
                report.count(row_status::unchanged),
            24);
}

// The LSE is what partial results are merged by: a row that sees the token only has another one,
// L' = L + log gamma, though its output is the same. Fused attention says so too.
TYPED_TEST(output_of, a_row_that_sees_the_initial_token_only_gets_its_lse) {
  using T = typename TypeParam::type;
  using real = typename TestFixture::acc;
  for (const float gamma : {0.0f, 0.5f, 1.0f, 4.0f}) {
    test::tensor<T> q({1, 1, 1, 4}), k({1, 1, 1, 4}), v({1, 1, 1, 4}), out({1, 1, 1, 4});
    test::tensor<real, 3> lse({1, 1, 1});
    q.randomise(1), k.randomise(2), v.randomise(3);
    double logit = 0;
    for (std::size_t c = 0; c < 4; ++c) logit += 0.5 * q.dense()[c] * k.dense()[c];
    out.set(v.dense()), lse.fill(logit);
    zerotune::correct_output(typename TypeParam::backend{}, out.view(), lse.view(), q.const_view(),
                             k.const_view(), v.const_view(), zerotune::initial_token{gamma});
    EXPECT_TRUE(test::same_bits(out.elements(), v.elements()));
    const double bias = gamma > 0 ? std::log(static_cast<double>(gamma)) : 0.0;
    EXPECT_NEAR(test::to_double(lse.at(0)), logit + bias, 1e-6) << gamma;
  }
}

// A D that is nothing but rounding is none to divide by, whatever the caller bears.
TYPED_TEST(output_of, a_divisor_of_rounding_alone_is_amplified_for_every_min_d) {
  using T = typename TypeParam::type;
  using real = typename TestFixture::acc;
  test::tensor<T> q({1, 2, 1, 1}), k({1, 1, 2, 1}), v({1, 1, 2, 1}), out({1, 2, 1, 1});
  test::tensor<real, 3> lse({1, 2, 1});
  q.fill(1), k.set({60, -60}), v.set({1, -1}), out.fill(1), lse.fill(60);
  const std::vector<T> before = out.elements();
  for (const bool block : {false, true}) {  // one changed key, and two
    const auto report =
        block ? zerotune::correct_output(typename TypeParam::backend{}, out.view(), lse.view(),
                                         q.const_view(), k.const_view(), v.const_view(),
                                         zerotune::token_span{{0, 2}, 1e-30f},
                                         zerotune::output_options{.softmax_scale = 1, .min_d = 0})
              : zerotune::correct_output(typename TypeParam::backend{}, out.view(), lse.view(),
                                         q.const_view(), k.const_view(), v.const_view(),
                                         zerotune::initial_token{0.0f},
                                         zerotune::output_options{.softmax_scale = 1, .min_d = 0});
    EXPECT_EQ(report.count(row_status::amplified), 2) << block;
    EXPECT_TRUE(test::same_bits(out.elements(), before)) << block;
  }
}

// The kernel hid every key of the row by a mask that the modifier does not have.
TYPED_TEST(output_of, a_row_whose_lse_is_minus_infinity_stays_as_it_is) {
  using T = typename TypeParam::type;
  using real = typename TestFixture::acc;
  test::tensor<T> q({1, 1, 3, 1}), k({1, 1, 2, 1}), v({1, 1, 2, 1}), out({1, 1, 3, 1});
  test::tensor<real, 3> lse({1, 1, 3});
  q.fill(1), k.fill(0), v.set({3, 1}), out.set({2, 0, 2});
  lse.set({std::log(2.0), -std::numeric_limits<double>::infinity(), std::log(2.0)});
  const auto report = zerotune::correct_output(
      typename TypeParam::backend{}, out.view(), lse.view(), q.const_view(), k.const_view(),
      v.const_view(), zerotune::initial_token{3.0f}, zerotune::output_options{.softmax_scale = 1});
  EXPECT_EQ(report.rows, (std::vector<row_status>{row_status::corrected, row_status::unchanged,
                                                  row_status::corrected}));
  EXPECT_NEAR(test::to_double(out.at(0)), 2.5, 1e-2);  // (3 * 3 + 1) / 4
  EXPECT_EQ(test::to_double(out.at(1)), 0.0);
  EXPECT_NEAR(test::to_double(out.at(2)), 2.5, 1e-2);
  EXPECT_EQ(lse.at(1), -std::numeric_limits<real>::infinity());
}

// An LSE rounded below l_0 would make a_0 > 1: the weight is capped at 1.
TYPED_TEST(output_of, an_lse_below_the_logit_counts_as_weight_one) {
  using T = typename TypeParam::type;
  using real = typename TestFixture::acc;
  test::tensor<T> q({1, 1, 1, 1}), k({1, 1, 2, 1}), v({1, 1, 2, 1}), out({1, 1, 1, 1});
  test::tensor<real, 3> lse({1, 1, 1});
  q.fill(1), k.set({8, -8}), v.set({1, -1}), out.fill(1), lse.fill(7.5);
  const auto report = zerotune::correct_output(
      typename TypeParam::backend{}, out.view(), lse.view(), q.const_view(), k.const_view(),
      v.const_view(), zerotune::initial_token{4.0f}, zerotune::output_options{.softmax_scale = 1});
  EXPECT_EQ(report.count(row_status::corrected), 1);
  EXPECT_NEAR(test::to_double(out.at(0)), 1.0, 1e-6);
  EXPECT_NEAR(static_cast<double>(lse.at(0)), 7.5 + std::log(4.0), 1e-5);
}

// A weight below the least normal float, and a gamma that makes most of the row of it.
TYPED_TEST(output_of, a_tiny_weight_counts_under_a_huge_gamma) {
  using T = typename TypeParam::type;
  using real = typename TestFixture::acc;
  for (const index_t rows : {1, 5}) {
    test::tensor<T> q({1, 1, rows, 1}), k({1, 1, 2, 1}), v({1, 1, 2, 1}), out({1, 1, rows, 1});
    test::tensor<real, 3> lse({1, 1, rows});
    q.fill(1), k.set({-88, 0}), v.set({1, 0.5}), out.fill(0.5), lse.fill(0);
    const zerotune::index_t last[] = {1};
    const auto report = zerotune::correct_output(
        typename TypeParam::backend{}, out.view(), lse.view(), q.const_view(), k.const_view(),
        v.const_view(), zerotune::initial_token{3e38f},
        zerotune::output_options{.softmax_scale = 1, .q_starts = {last, {1}}});
    const double weight = static_cast<double>(3e38f) * std::exp(-88.0), d = 1 + weight;
    EXPECT_EQ(report.count(row_status::corrected), rows);
    for (index_t i = 0; i < rows; ++i) {
      EXPECT_NEAR(test::to_double(out.at(i)), (0.5 + weight) / d, 4e-3) << rows;
      EXPECT_NEAR(static_cast<double>(lse.at(i)), std::log(d), 1e-5) << rows;
    }
  }
}

}  // namespace
