// SPDX-License-Identifier: Apache-2.0
// The fault table of docs/design.md, section 5: the rows about gamma, on every form and back end.
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "support/backends.hpp"
#include "support/errors.hpp"
#include "support/forms.hpp"
#include "support/rows.hpp"
#include "support/tolerance.hpp"

namespace {

using test::index_t;
using test::scene;

template <class Kernel>
class gamma_faults : public ::testing::Test {
 public:
  using all_forms = test::forms<typename Kernel::backend, typename Kernel::type>;

  static scene small(float gamma) {
    scene s{.batch = 1, .num_heads = 2, .num_kv_heads = 1, .q_len = 4, .kv_len = 4};
    s.gammas = {gamma, 1.0f};
    return s.complete();
  }
  /// Weight on the initial token that the form leads to, in row `q` of head 0: from V = the
  /// indicator of the initial token.
  static double initial_weight(all_forms& f, int form, index_t q) {
    const auto keys = static_cast<std::size_t>(f.s.kv_len);
    if (form == 0) return test::to_double(f.square.view()(0, 0, q, 0));
    if (form == 1 || form == 2) {
      std::vector<double> logits, weights(keys);
      for (index_t j = 0; j < f.s.kv_len; ++j)
        logits.push_back(test::to_double(f.square.view()(0, 0, q, j)));
      oracle::softmax(logits, std::vector<double>(keys, 1.0), weights.data());
      return weights[0];
    }
    return test::to_double((form == 5 ? f.out : f.corrected).view()(0, 0, q, 0));
  }
  static void use_indicator_values(all_forms& f) {
    f.in.v.fill(0);
    for (index_t c = 0; c < f.s.value_dim; ++c)
      f.in.v.view()(0, 0, 0, c) = test::from_double<typename Kernel::type>(1);
  }
};
TYPED_TEST_SUITE(gamma_faults, test::fault_kernels, test::kernel_names);

TYPED_TEST(gamma_faults, gamma_zero_excludes_the_initial_token_exactly) {
  for (const float zero : {0.0f, -0.0f}) {
    typename TestFixture::all_forms f(this->small(zero), 3);
    this->use_indicator_values(f);
    for (int form = 0; form < f.count; ++form) {
      f.start(form);
      f.call(form, f.s.usual());
      // The output form subtracts: it is exact up to the rounding of o and a_0.
      const double unit = sizeof(typename TypeParam::type) == 2 ? 0.02 : 1e-5;
      const double slack = form == 3 || form == 4 ? unit : 0.0;
      for (index_t q = 1; q < 4; ++q)
        EXPECT_NEAR(this->initial_weight(f, form, q), 0.0, slack) << f.names[form] << " row " << q;
    }
  }
}

TYPED_TEST(gamma_faults, gamma_zero_in_a_row_that_sees_only_the_initial_token_changes_nothing) {
  typename TestFixture::all_forms f(this->small(0.0f), 3), untouched(this->small(1.0f), 3);
  for (int form = 0; form < f.count; ++form) {
    f.start(form), untouched.start(form);
    f.call(form, f.s.usual()), untouched.call(form, untouched.s.usual());
    const auto row = [&](auto& tensor) {
      std::vector<double> values;
      for (index_t c = 0; c < tensor.view().extent(3); ++c)
        values.push_back(test::to_double(tensor.view()(0, 0, 0, c)));
      return values;
    };
    EXPECT_EQ(row(f.out), row(untouched.out)) << f.names[form];
    EXPECT_EQ(row(f.square), row(untouched.square)) << f.names[form];
    EXPECT_EQ(row(f.corrected), row(untouched.corrected)) << f.names[form];
    // Attention keeps no earlier state: it computes such a row by itself, in another order of sums.
    const bool computed = std::string(f.names[form]) == "attention";
    EXPECT_NEAR(f.lse.at(0), untouched.lse.at(0), computed ? 1e-6 : 0) << f.names[form];
  }
}

// Every row, by a window of one and by padding too: only positions decide, not a_0.
TYPED_TEST(gamma_faults, gamma_zero_with_nothing_else_visible_is_decided_by_positions) {
  scene s{.batch = 2, .num_heads = 1, .num_kv_heads = 1, .q_len = 3, .kv_len = 5};
  s.gammas = {0.0f};
  s.positions = {4, 2};  // row 2 of sequence 0, and row 0 of sequence 1, see the token alone
  s.complete();
  typename TestFixture::all_forms f(s, 9);
  for (int form = 0; form < f.count; ++form) {
    f.start(form);
    f.call(form, s.usual());
    test::for_each_row(s, [&](const test::scene_row& r) {
      if (!r.only_excluded) return;
      const index_t initial = s.initial(r.batch);
      const double square = test::to_double(f.square.view()(r.batch, 0, r.q, initial));
      EXPECT_TRUE(form != 0 || square == 1.0) << square;
      EXPECT_TRUE(form != 2 || square == 0.0) << square;
      for (index_t c = 0; c < s.value_dim; ++c) {
        const double value = test::to_double(f.in.v.view()(r.batch, 0, initial, c));
        auto& written = form == 5 ? f.out : f.corrected;
        EXPECT_TRUE(form < 3 || test::to_double(written.view()(r.batch, 0, r.q, c)) == value);
      }
    });
  }
}

TYPED_TEST(gamma_faults, gamma_negative_nan_or_infinite_is_an_error_and_nothing_is_written) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan_value = std::numeric_limits<float>::quiet_NaN();
  for (const float gamma : {-1.0f, -1e-45f, nan_value, infinity, -infinity}) {
    typename TestFixture::all_forms f(this->small(1.0f), 3);
    for (int form = 0; form < f.count; ++form) {
      f.start(form);
      const auto before = f.memory();
      const scene bad = this->small(gamma);
      const std::string message = test::message_of([&] { f.call(form, bad.usual()); });
      EXPECT_TRUE(test::mentions(message, {"initial_token gamma[0]", ">= 0"}))
          << f.names[form] << ": " << message;
      EXPECT_EQ(f.memory(), before) << f.names[form];
    }
  }
}

TYPED_TEST(gamma_faults, gamma_subnormal_or_huge_is_finite_and_right) {
  using T = typename TypeParam::type;
  for (const float gamma : {1e-45f, 1e-42f, 1e-38f, 1e38f, 3.4e38f}) {
    typename TestFixture::all_forms f(this->small(gamma), 3);
    const oracle::result expected = oracle::attend(f.in.problem(f.s));
    const oracle::result naive = test::naive_attention<T>(f.in.problem(f.s));
    for (int form = 0; form < f.count; ++form) {
      f.start(form);
      std::vector<double> weights = f.square.dense(), stored;  // rounded: the form starts from them
      f.call(form, f.s.usual());
      if (form == 0) {
        for (std::size_t row = 1; row < 4; ++row)
          oracle::rescale(weights.data() + 4 * row, {static_cast<double>(gamma), 1, 1, 1});
        for (const double a : weights) stored.push_back(test::stored<T>(a));
        EXPECT_TRUE(test::close<T>(f.square.dense(), weights, stored)) << gamma;
      }
      if (form == 5) {
        EXPECT_TRUE(test::close<T>(f.out.dense(), expected.out, naive.out)) << gamma;
        EXPECT_TRUE(test::close<typename TestFixture::all_forms::acc>(f.lse.dense(), expected.lse,
                                                                      naive.lse))
            << gamma;
      }
      if (form == 2) {
        const double bias = std::log(static_cast<double>(gamma));
        EXPECT_NEAR(test::to_double(f.square.view()(0, 0, 3, 0)), bias,
                    sizeof(T) == 2 ? 0.3 : 1e-5);
      }
      for (const double x : f.corrected.dense()) EXPECT_TRUE(std::isfinite(x)) << gamma;
      for (const double x : f.lse.dense()) EXPECT_TRUE(std::isfinite(x)) << gamma;
      if ((form == 3 || form == 4) && gamma > 1) {
        EXPECT_LT(test::max_error(f.corrected.dense(), expected.out), sizeof(T) == 2 ? 0.02 : 1e-5);
      }
    }
  }
}

TYPED_TEST(gamma_faults, initial_weight_zero_leaves_the_row_unchanged) {
  using T = typename TypeParam::type;
  for (const float gamma : {0.0f, 0.5f, 1e38f}) {
    test::tensor<T> weights({1, 1, 2, 5});
    weights.set({0, 0.1, 0.2, 0.3, 0.4, -0.0, 0.3, 0.3, 0.3, 0.3});
    const auto before = weights.storage();
    zerotune::rescale_weights(typename TypeParam::backend{}, weights.view(),
                              zerotune::initial_token{gamma});
    EXPECT_TRUE(test::same_bits(weights.storage(), before)) << "not written at all";
  }
}

TYPED_TEST(gamma_faults, initial_token_outside_the_window_leaves_the_row_unchanged) {
  scene s{.batch = 1, .num_heads = 1, .num_kv_heads = 1, .q_len = 6, .kv_len = 6};
  s.window = 3;
  s.gammas = {50.0f};
  s.complete();
  scene plain = s;
  plain.gammas = {1.0f};
  typename TestFixture::all_forms f(s, 4), untouched(plain, 4);
  for (int form = 0; form < f.count; ++form) {
    f.start(form), untouched.start(form);
    f.call(form, zerotune::sliding_window{3} | s.usual());
    untouched.call(form, zerotune::sliding_window{3} | plain.usual());
    for (index_t q = 3; q < 6; ++q) {  // rows 0 to 2 see the token
      const auto width = f.square.view().extent(3);
      for (index_t j = 0; j < width; ++j)
        EXPECT_EQ(test::to_double(f.square.view()(0, 0, q, j)),
                  test::to_double(untouched.square.view()(0, 0, q, j)));
      for (index_t c = 0; c < s.value_dim; ++c) {
        EXPECT_EQ(test::to_double(f.out.view()(0, 0, q, c)),
                  test::to_double(untouched.out.view()(0, 0, q, c)));
        EXPECT_EQ(test::to_double(f.corrected.view()(0, 0, q, c)),
                  test::to_double(untouched.corrected.view()(0, 0, q, c)));
      }
      EXPECT_EQ(f.lse.view()(0, 0, q), untouched.lse.view()(0, 0, q));
    }
  }
}

}  // namespace
