// SPDX-License-Identifier: Apache-2.0
// The paper's key-state form: what gamma it amounts to, how far it spreads, and its calibration.
#include "zerotune/analysis/key_scale.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "support/errors.hpp"
#include "support/scene.hpp"
#include "support/tolerance.hpp"

namespace {

using test::index_t;
using test::list_view;
using test::scene;

/// Scene of groups of two whose initial logits are all of one sign.
struct setting {
  scene s = grouped();
  test::inputs<double> in{s, 3};
  static scene grouped() {
    scene made{.batch = 2, .num_heads = 4, .num_kv_heads = 2, .q_len = 5, .kv_len = 9};
    made.positions = {2, 0};
    return made.complete();
  }
  setting() {
    for (index_t i = 0; i < in.q.size(); ++i) in.q.at(i) = 0.2 + std::abs(in.q.at(i));
    for (index_t i = 0; i < in.k.size(); ++i) in.k.at(i) = 0.2 + std::abs(in.k.at(i));
  }
  zerotune::output_options options(double softcap = 0) const {
    zerotune::output_options o;
    o.softmax_scale = s.scale;
    o.softcap = softcap;
    return o;
  }
  /// log of the effective gamma of every row that sees the token, per head: by what the ratio of
  /// the initial weight to the others changes in an attention with the scaled key.
  std::vector<std::vector<double>> effective(const std::vector<float>& factors,
                                             double softcap = 0) {
    s.softcap = softcap;
    const oracle::result before = oracle::attend(in.problem(s));
    test::inputs<double> scaled(s, 3);
    scaled.q.set(in.q.dense()), scaled.k.set(in.k.dense()), scaled.v.set(in.v.dense());
    zerotune::scale_keys(
        scaled.k.view(),
        zerotune::key_scale{.factors = list_view(factors), .positions = list_view(s.positions)},
        s.num_heads);
    const oracle::result after = oracle::attend(scaled.problem(s));
    std::vector<std::vector<double>> logs(4);
    for (std::size_t row = 0; row < before.lse.size(); ++row) {
      const std::size_t sequence = row / 20;
      const auto initial = static_cast<std::size_t>(s.positions[sequence]);
      const double x = before.logits[row * 9 + initial], y = after.logits[row * 9 + initial];
      if (std::isfinite(x)) logs[row / 5 % 4].push_back(y - x);
    }
    return logs;
  }
};

TEST(key_scale_spread, is_that_of_an_attention_with_the_scaled_key) {
  for (const double softcap : {0.0, 0.7}) {
    setting with;
    const std::vector<float> factors{1.5f, 1.5f, 0.25f, 0.25f};
    const auto expected = with.effective(factors, softcap);
    const auto spreads =
        zerotune::key_scale_spread(with.in.q.const_view(), with.in.k.const_view(),
                                   zerotune::key_scale{.factors = list_view(factors),
                                                       .positions = list_view(with.s.positions)},
                                   zerotune::causal{}, with.options(softcap));
    ASSERT_EQ(spreads.size(), 4u);
    for (std::size_t h = 0; h < 4; ++h) {
      std::vector<double> logs = expected[h];
      std::sort(logs.begin(), logs.end());
      double mean = 0;
      for (const double x : logs) mean += x / static_cast<double>(logs.size());
      const std::size_t n = logs.size();
      EXPECT_EQ(spreads[h].rows, static_cast<index_t>(n));
      EXPECT_NEAR(spreads[h].geometric_mean, std::exp(mean), 1e-12);
      EXPECT_NEAR(spreads[h].least, std::exp(logs.front()), 1e-12);
      EXPECT_NEAR(spreads[h].greatest, std::exp(logs.back()), 1e-12);
      EXPECT_NEAR(spreads[h].median, std::exp(0.5 * (logs[(n - 1) / 2] + logs[n / 2])), 1e-12);
      EXPECT_LT(spreads[h].least, spreads[h].greatest) << "the form is not exact, and says so";
    }
  }
}

TEST(calibrate_key_scale, meets_the_wanted_gamma_in_the_mean_of_the_group) {
  for (const double softcap : {0.0, 4.0})
    for (const float wanted : {0.5f, 1.2f, 2.0f}) {
      setting with;
      const std::vector<float> gammas{wanted, wanted, 1.0f, 1.0f};
      const std::vector<float> factors = zerotune::calibrate_key_scale(
          with.in.q.const_view(), with.in.k.const_view(), zerotune::head_gammas{list_view(gammas)},
          zerotune::causal{}, list_view(with.s.positions), with.options(softcap));
      ASSERT_EQ(factors.size(), 4u);
      EXPECT_EQ(factors[0], factors[1]);
      EXPECT_EQ(factors[2], 1.0f);
      EXPECT_EQ(factors[3], 1.0f);
      double sum = 0, rows = 0;
      const auto logs = with.effective(factors, softcap);
      for (std::size_t h = 0; h < 2; ++h)
        for (const double x : logs[h]) sum += x, rows += 1;
      EXPECT_NEAR(std::exp(sum / rows), static_cast<double>(wanted), 1e-3) << "softcap " << softcap;
    }
}

TEST(calibrate_key_scale, refuses_groups_that_mix_gammas) {
  setting with;
  const std::vector<float> mixed{2.0f, 2.0f, 1.0f, 2.0f};
  const std::string message = test::message_of([&] {
    zerotune::calibrate_key_scale(with.in.q.const_view(), with.in.k.const_view(),
                                  zerotune::head_gammas{list_view(mixed)}, zerotune::causal{},
                                  list_view(with.s.positions), with.options());
  });
  EXPECT_TRUE(test::mentions(message, {"calibrate_key_scale", "gamma[3]", "key-value head 1"}))
      << message;
}

TEST(calibrate_key_scale, refuses_a_gamma_that_no_factor_reaches) {
  setting with;
  const auto message = [&](float gamma, double softcap) {
    return test::message_of([&] {
      zerotune::calibrate_key_scale(with.in.q.const_view(), with.in.k.const_view(),
                                    zerotune::head_gammas{gamma}, zerotune::causal{},
                                    list_view(with.s.positions), with.options(softcap));
    });
  };
  EXPECT_TRUE(test::mentions(message(0.0f, 0), {"gamma[0]", "> 0"}));
  EXPECT_TRUE(test::mentions(message(1e6f, 1.0), {"gamma[0]", "some factor reaches"}));
  EXPECT_TRUE(test::mentions(message(-1.0f, 0), {"gamma[0]"}));
  with.in.k.fill(0);  // a logit of 0 cannot be scaled
  EXPECT_TRUE(test::mentions(message(2.0f, 0), {"gamma[0]"}));
}

TEST(calibrate_key_scale, leaves_heads_without_a_row_alone) {
  setting with;
  with.s.kv_lengths = {9, 9}, with.s.q_starts = {-7, -7};  // every query stands before the token
  zerotune::output_options options = with.options();
  options.q_starts = list_view(with.s.q_starts);
  EXPECT_EQ(zerotune::calibrate_key_scale(with.in.q.const_view(), with.in.k.const_view(),
                                          zerotune::head_gammas{2.0f}, zerotune::causal{},
                                          list_view(with.s.positions), options),
            std::vector<float>(4, 1.0f));
}

TEST(key_scale_analysis, refuses_what_does_not_fit) {
  setting with;
  const std::vector<float> three(3, 1.0f);
  const std::vector<index_t> beyond{0, 9};
  const auto spread = [&](const zerotune::key_scale& scale,
                          const zerotune::output_options& options) {
    return test::message_of([&] {
      zerotune::key_scale_spread(with.in.q.const_view(), with.in.k.const_view(), scale,
                                 zerotune::causal{}, options);
    });
  };
  EXPECT_TRUE(test::mentions(spread({.factors = list_view(three)}, with.options()),
                             {"key_scale_spread", "factors", "expected 4", "got 3"}));
  EXPECT_TRUE(test::mentions(spread({.positions = list_view(beyond)}, with.options()),
                             {"key_scale_spread", "positions[1]", "got 9"}));
  zerotune::output_options bad = with.options();
  bad.softcap = -1;
  EXPECT_TRUE(test::mentions(spread({.factor = 2}, bad), {"key_scale_spread", "softcap"}));
  bad.softcap = 0, bad.softmax_scale = std::nan("");
  EXPECT_TRUE(test::mentions(spread({.factor = 2}, bad), {"key_scale_spread", "softmax_scale"}));
}

}  // namespace
