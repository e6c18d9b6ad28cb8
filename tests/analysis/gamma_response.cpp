// SPDX-License-Identifier: Apache-2.0
// sink_rows and what gamma makes of them, against weights from the oracle.
#include "zerotune/analysis/gamma_response.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "oracle/oracle.hpp"
#include "support/errors.hpp"
#include "zerotune/policy/compose.hpp"
#include "zerotune/policy/masks.hpp"

namespace {

using zerotune::index_t;
using zerotune::sink_row;
using zerotune::tensor_view;

constexpr index_t batch = 2, heads = 4, kv_heads = 2, q_len = 5, kv_len = 9, dim = 7;
// float q.k of 7 products and a float LSE: some 1e-6 in the exponent.
constexpr double tolerance = 1e-5;

class gamma_response : public testing::Test {
 protected:
  gamma_response() : q_(batch * heads * q_len * dim), k_(batch * kv_heads * kv_len * dim) {
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    for (float& value : q_) value = 1.5f * normal(random);
    for (float& value : k_) value = normal(random);
  }
  oracle::problem problem(double gamma) const {
    oracle::problem p;
    p.batch = batch, p.num_heads = heads, p.num_kv_heads = kv_heads;
    p.q_len = q_len, p.kv_len = kv_len, p.head_dim = p.value_dim = dim;
    p.q.assign(q_.begin(), q_.end());
    p.k.assign(k_.begin(), k_.end());
    p.v = p.k;
    p.scale = 0.4;
    p.rule.factor = [gamma](oracle::position at) { return at.kv_pos == 0 ? gamma : 1.0; };
    p.rule.hidden = [](oracle::position at) { return at.kv_pos > at.q_pos; };
    return p;
  }
  tensor_view<const float, 4> q() const { return {q_.data(), {batch, heads, q_len, dim}}; }
  tensor_view<const float, 4> k() const { return {k_.data(), {batch, kv_heads, kv_len, dim}}; }
  std::vector<sink_row> rows(double gamma) const {
    const oracle::result exact = oracle::attend(problem(gamma));
    const std::vector<float> lse(exact.lse.begin(), exact.lse.end());
    const zerotune::initial_token sink{static_cast<float>(gamma)};
    return zerotune::sink_rows(q(), k(),
                               tensor_view<const float, 3>(lse.data(), {batch, heads, q_len}),
                               zerotune::causal{} | sink, sink, {.softmax_scale = 0.4});
  }
  std::vector<float> q_, k_;
};

double entropy_of(const double* weights) {
  double entropy = 0;
  for (index_t j = 0; j < kv_len; ++j)
    if (weights[j] > 0) entropy -= weights[j] * std::log(weights[j]);
  return entropy;
}

TEST_F(gamma_response, rows_of_one_pass_answer_for_every_gamma) {
  const std::vector<sink_row> seen = rows(1);
  ASSERT_EQ(seen.size(), static_cast<std::size_t>(batch * heads * q_len));
  for (const double gamma : {0.0, 1e-6, 0.25, 1.0, 3.0, 1e6}) {
    const oracle::result exact = oracle::attend(problem(gamma));
    for (std::size_t r = 0; r < seen.size(); ++r) {
      const double* const weights = exact.weights.data() + r * kv_len;
      EXPECT_NEAR(zerotune::initial_weight(seen[r], gamma), weights[0], tolerance) << gamma;
      EXPECT_NEAR(zerotune::row_entropy(seen[r], gamma), entropy_of(weights), 10 * tolerance)
          << gamma;
      EXPECT_EQ(seen[r].keys, kv_len - q_len + 1 + static_cast<index_t>(r) % q_len);
    }
  }
}

TEST_F(gamma_response, a_gamma_in_the_modifier_is_part_of_the_weights) {
  const std::vector<sink_row> seen = rows(2.5);
  const oracle::result exact = oracle::attend(problem(2.5));
  for (std::size_t r = 0; r < seen.size(); ++r) {
    EXPECT_NEAR(seen[r].initial, exact.weights[r * kv_len], tolerance);
    EXPECT_NEAR(seen[r].initial + seen[r].rest, 1.0, tolerance);
  }
}

// Attention leaves a row alone whose every key gamma = 0 would exclude.
TEST(sink_rows_of, a_row_that_sees_the_initial_token_only_under_gamma_zero) {
  const std::vector<float> x{1, 2, 3, 4};
  std::vector<float> out(4), lse(2), mass(2);
  const tensor_view<const float, 4> q(x.data(), {1, 1, 2, 2});
  const tensor_view<float, 3> lse_view(lse.data(), {1, 1, 2}), mass_view(mass.data(), {1, 1, 2});
  const zerotune::initial_token sink{0.0f};
  zerotune::attention(q, q, q, tensor_view<float, 4>(out.data(), {1, 1, 2, 2}),
                      zerotune::causal{} | sink, {.lse = lse_view, .sink_mass = mass_view});
  const auto rows = zerotune::sink_rows(q, q, lse_view, zerotune::causal{} | sink, sink);
  EXPECT_EQ(mass[0], 1.0f);
  EXPECT_NEAR(rows[0].initial, 1.0, tolerance);
  EXPECT_EQ(rows[0].rest, 0.0);
  EXPECT_EQ(rows[1].initial, 0.0);
  EXPECT_NEAR(rows[1].rest, 1.0, tolerance);
}

TEST_F(gamma_response, the_entropy_is_largest_at_the_peak) {
  for (const sink_row& row : rows(1)) {
    const double peak = zerotune::peak_gamma(row);
    const double most = zerotune::row_entropy(row, peak);
    EXPECT_NEAR(most, std::log(1 + std::exp(row.rest_entropy)), 1e-12);
    EXPECT_GT(most, zerotune::row_entropy(row, 1.1 * peak));
    EXPECT_GT(most, zerotune::row_entropy(row, peak / 1.1));
  }
}

TEST(sink_row, rows_that_gamma_cannot_change) {
  const sink_row alone{1.0, 0.0, 0.0, 1}, unseen{0.0, 1.0, 0.5, 3}, nothing{};
  for (const double gamma : {0.0, 2.0}) {
    EXPECT_EQ(zerotune::initial_weight(alone, gamma), 1.0);
    EXPECT_EQ(zerotune::row_entropy(alone, gamma), 0.0);
    EXPECT_EQ(zerotune::initial_weight(unseen, gamma), 0.0);
    EXPECT_EQ(zerotune::row_entropy(unseen, gamma), 0.5);
    EXPECT_EQ(zerotune::initial_weight(nothing, gamma), 0.0);
    EXPECT_EQ(zerotune::row_entropy(nothing, gamma), 0.0);
  }
  EXPECT_FALSE(zerotune::answers_gamma(alone));
  EXPECT_FALSE(zerotune::answers_gamma(unseen));
  EXPECT_EQ(zerotune::peak_gamma(alone), 1.0);
}

TEST_F(gamma_response, a_wrong_shape_is_named) {
  const std::vector<float> lse(batch * heads * kv_len);
  const std::string message = test::message_of([&] {
    zerotune::sink_rows(q(), k(), tensor_view<const float, 3>(lse.data(), {batch, heads, kv_len}),
                        zerotune::causal{}, zerotune::initial_token{1.0f});
  });
  EXPECT_TRUE(test::mentions(message, {"sink_rows", "lse", "q_len"})) << message;
}

}  // namespace
