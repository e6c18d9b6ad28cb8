// SPDX-License-Identifier: Apache-2.0
// Descent on losses whose minima are known, and its bounds, minibatches and mistakes.
#include "zerotune/tuning/descent.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

#include "support/errors.hpp"
#include "tuning/linear_host.hpp"
#include "zerotune/tuning/loss.hpp"

namespace {

using namespace zerotune;
using test::mentions;
using test::message_of;

// The loss of example i is sum over heads of curvature / 2 (log gamma - target[i])^2: the mean of
// the targets is the minimum.
struct quadratic_host {
  index_t layers = 1, heads = 2;
  std::vector<std::vector<double>> target{};  // [examples][units]
  std::vector<double> curvature{};            // [units]
  std::vector<std::vector<index_t>> batches{};

  index_t num_layers() const { return layers; }
  index_t num_heads() const { return heads; }
  std::vector<example_result> evaluate(const gamma_table&, std::span<const index_t> examples,
                                       const quantities&, const progress_callback&) {
    return std::vector<example_result>(examples.size());
  }
  example_gradients differentiate(const gamma_table& gamma, std::span<const index_t> examples,
                                  const loss_weights&, const progress_callback& progress) {
    batches.emplace_back(examples.begin(), examples.end());
    example_gradients result;
    for (const index_t example : examples) {
      double loss = 0;
      for (std::size_t u = 0; u < curvature.size(); ++u) {
        const double off = std::log(static_cast<double>(gamma.values()[u])) -
                           target[static_cast<std::size_t>(example)][u];
        loss += curvature[u] / 2 * off * off;
        result.gradient.push_back(static_cast<float>(curvature[u] * off));
      }
      result.loss.push_back(loss);
      if (progress)
        progress(static_cast<index_t>(result.loss.size()), static_cast<index_t>(examples.size()));
    }
    return result;
  }
};

std::vector<double> log_of(const gamma_table& gamma) {
  std::vector<double> values;
  for (const float value : gamma.values()) values.push_back(std::log(static_cast<double>(value)));
  return values;
}

// Long and small steps: Adam circles a minimum at about its step size.
const descent_options patient{.steps = 600, .step_size = 0.01, .keep = {}};

TEST(descent, finds_the_minimum_of_a_quadratic) {
  quadratic_host host{.target = {{0.5, -1}, {0.9, -1.4}}, .curvature = {1, 20}};
  const std::vector<index_t> rows{0, 1};
  const descent_outcome outcome = descend(host, rows, {}, patient);
  ASSERT_EQ(outcome.snapshots.size(), 1u);
  EXPECT_EQ(outcome.snapshots[0].step, 600);
  const auto theta = log_of(outcome.snapshots[0].gamma);
  EXPECT_NEAR(theta[0], 0.7, 2e-3);
  EXPECT_NEAR(theta[1], -1.2, 2e-3);
  EXPECT_EQ(outcome.steps.size(), 600u);
  EXPECT_LT(outcome.steps.back().loss, outcome.steps.front().loss);
  EXPECT_EQ(outcome.at_limit, 0);
  EXPECT_FALSE(outcome.stopped_early);
}

// The first bias-corrected step of Adam is the step size against the gradient's sign.
TEST(descent, first_step_is_the_step_size) {
  quadratic_host host{.target = {{5, -0.01}}, .curvature = {1, 1}};
  const std::vector<index_t> rows{0};
  const descent_outcome outcome = descend(host, rows, {}, {.steps = 1, .step_size = 0.25});
  const auto theta = log_of(outcome.snapshots[0].gamma);
  EXPECT_NEAR(theta[0], 0.25, 1e-6);
  EXPECT_NEAR(theta[1], -0.25, 1e-6);
  EXPECT_NEAR(outcome.steps[0].gradient_norm, std::hypot(5, 0.01), 1e-6);
  EXPECT_NEAR(outcome.steps[0].loss, 12.5 + 0.00005, 1e-9);
}

// Adam (Kingma and Ba, algorithm 1) written out for one number.
TEST(descent, follows_adam) {
  quadratic_host host{.heads = 1, .target = {{1}}, .curvature = {2}};
  const std::vector<index_t> rows{0};
  const descent_outcome outcome =
      descend(host, rows, {},
              {.steps = 5, .step_size = 0.3, .beta1 = 0.7, .beta2 = 0.9, .keep = {1, 2, 3, 4}});
  ASSERT_EQ(outcome.snapshots.size(), 5u);
  double theta = 0, m = 0, v = 0;
  for (int t = 1; t <= 5; ++t) {
    const double g = 2 * (theta - 1);
    m = 0.7 * m + 0.3 * g;
    v = 0.9 * v + 0.1 * g * g;
    theta -= 0.3 * (m / (1 - std::pow(0.7, t))) / (std::sqrt(v / (1 - std::pow(0.9, t))) + 1e-8);
    // The host sees gamma as a float.
    EXPECT_NEAR(log_of(outcome.snapshots[static_cast<std::size_t>(t - 1)].gamma)[0], theta, 1e-6);
  }
}

TEST(descent, stays_within_its_limit) {
  quadratic_host host{.target = {{5, -5}}, .curvature = {1, 1}};
  const std::vector<index_t> rows{0};
  const descent_outcome outcome =
      descend(host, rows, {}, {.steps = 40, .step_size = 0.15, .limit = 0.5});
  const auto theta = log_of(outcome.snapshots.back().gamma);
  EXPECT_NEAR(theta[0], 0.5, 1e-6);
  EXPECT_NEAR(theta[1], -0.5, 1e-6);
  EXPECT_EQ(outcome.at_limit, 2);
}

// Minima with the pulls, by hand: with curvature 1, a pull p moves the minimum to target / (1 + p),
// and a sharing s keeps the mean and shrinks the rest by 1 + s.
TEST(descent, pulls_move_the_minimum_as_they_should) {
  quadratic_host host{
      .layers = 2, .heads = 2, .target = {{0.8, 0.2, -0.4, 0.6}}, .curvature = {1, 1, 1, 1}};
  const std::vector<index_t> rows{0};
  const auto end = [&](const descent_options& options) {
    return log_of(descend(host, rows, {}, options).snapshots.back().gamma);
  };
  descent_options options = patient;
  options.pull = 3;
  const auto pulled = end(options);
  const double target[] = {0.8, 0.2, -0.4, 0.6};
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(pulled[i], target[i] / 4, 2e-3);
  options = patient;
  options.layer_sharing = 2;  // means 0.5 and 0.1
  const auto by_layer = end(options);
  const double expected_layer[] = {0.6, 0.4, 0.1 - 0.5 / 3, 0.1 + 0.5 / 3};
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(by_layer[i], expected_layer[i], 2e-3);
  options = patient;
  options.head_sharing = 2;  // means 0.2 and 0.4
  const auto by_head = end(options);
  const double expected_head[] = {0.4, 0.4 - 0.2 / 3, 0.0, 0.4 + 0.2 / 3};
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(by_head[i], expected_head[i], 2e-3);
}

TEST(descent, keeps_what_it_is_told_and_stops_when_told) {
  quadratic_host host{.target = {{1, 1}}, .curvature = {1, 1}};
  const std::vector<index_t> rows{0};
  std::vector<index_t> seen;
  const descent_outcome outcome = descend(host, rows, {}, {.steps = 10, .keep = {2, 4, 8}}, {},
                                          [&](const descent_snapshot& snapshot) {
                                            seen.push_back(snapshot.step);
                                            return snapshot.step < 4;
                                          });
  EXPECT_EQ(seen, (std::vector<index_t>{2, 4}));
  EXPECT_EQ(outcome.steps.size(), 4u);
  EXPECT_TRUE(outcome.stopped_early);
  EXPECT_EQ(descend(host, rows, {}, {.steps = 10, .keep = {2, 4, 8}}).snapshots.back().step, 10);
}

TEST(descent, minibatches_pass_over_all_rows_and_hold_labels_in_proportion) {
  quadratic_host host{.heads = 1, .curvature = {1}};
  std::vector<index_t> labels;
  for (int i = 0; i < 16; ++i) {
    labels.push_back(i < 8 ? 0 : 1);
    host.target.push_back({1.0});
  }
  const auto rows = test::rows_between(0, 16);
  descend(host, rows, labels, {.steps = 8, .batch = 4, .seed = 5});
  ASSERT_EQ(host.batches.size(), 8u);
  for (std::size_t epoch = 0; epoch < 2; ++epoch) {
    std::set<index_t> seen;
    for (std::size_t b = 0; b < 4; ++b) {
      index_t ones = 0;
      for (const index_t row : host.batches[epoch * 4 + b]) {
        seen.insert(row);
        ones += labels[static_cast<std::size_t>(row)];
      }
      EXPECT_EQ(ones, 2);
    }
    EXPECT_EQ(seen.size(), 16u);
  }
  EXPECT_NE(host.batches[0], host.batches[4]);
  const auto first = host.batches;
  host.batches.clear();
  descend(host, rows, labels, {.steps = 8, .batch = 4, .seed = 5});
  EXPECT_EQ(host.batches, first);
  host.batches.clear();
  descend(host, rows, labels, {.steps = 8, .batch = 4, .seed = 6});
  EXPECT_NE(host.batches, first);
}

TEST(descent, repairs_a_model_that_answers_junk) {
  test::linear_host host = test::make_linear_host();
  const auto rows = test::rows_between(0, 60);
  const auto invalid = [&](const gamma_table& gamma) {
    return measure_accuracies(host.evaluate(gamma, rows, {}, {}), rows, host.labels).invalid;
  };
  EXPECT_GT(invalid(gamma_table(2, 3)), 0.7);
  const descent_outcome outcome = descend(host, rows, host.labels, {.steps = 16, .batch = 20});
  EXPECT_LT(invalid(outcome.snapshots.back().gamma), 0.1);
}

TEST(descent, is_the_same_for_any_number_of_threads) {
  test::linear_host host = test::make_linear_host();
  const auto rows = test::rows_between(0, 60);
  const descent_options options{.steps = 12, .batch = 16, .pull = 0.01, .head_sharing = 0.1};
  const gamma_table one = descend(host, rows, host.labels, options).snapshots.back().gamma;
  for (const int threads : {2, 3, 7}) {
    host.threads = threads;
    EXPECT_EQ(descend(host, rows, host.labels, options).snapshots.back().gamma, one);
  }
}

TEST(descent, progress_counts_all_rows) {
  quadratic_host host{.heads = 1, .target = {{1}, {2}}, .curvature = {1}};
  const std::vector<index_t> rows{0, 1};
  index_t last = 0;
  descend(host, rows, {}, {.steps = 3}, [&](index_t done, index_t total) {
    EXPECT_EQ(done, last + 1);
    EXPECT_EQ(total, 6);
    last = done;
  });
  EXPECT_EQ(last, 6);
}

TEST(descent, mistakes_are_named) {
  quadratic_host host{.target = {{1, 1}}, .curvature = {1, 1}};
  const std::vector<index_t> rows{0};
  const auto refused = [&](const descent_options& options) {
    return message_of([&] { descend(host, rows, {}, options); });
  };
  EXPECT_TRUE(mentions(message_of([&] { descend(host, {}, {}); }), {"descend", "examples"}));
  EXPECT_TRUE(mentions(refused({.steps = 0}), {"steps", "0"}));
  EXPECT_TRUE(mentions(refused({.step_size = 0}), {"step_size"}));
  EXPECT_TRUE(mentions(refused({.step_size = std::nan("")}), {"step_size"}));
  EXPECT_TRUE(mentions(refused({.beta1 = 1}), {"beta1"}));
  EXPECT_TRUE(mentions(refused({.beta2 = -0.1}), {"beta2"}));
  EXPECT_TRUE(mentions(refused({.epsilon = 0}), {"epsilon"}));
  EXPECT_TRUE(mentions(refused({.limit = 100}), {"limit"}));
  EXPECT_TRUE(mentions(refused({.batch = -1}), {"batch"}));
  EXPECT_TRUE(mentions(refused({.pull = -1}), {"pull"}));
  EXPECT_TRUE(mentions(refused({.layer_sharing = -1}), {"layer_sharing"}));
  EXPECT_TRUE(mentions(refused({.head_sharing = std::nan("")}), {"head_sharing"}));
  host.curvature = {1};
  EXPECT_TRUE(mentions(refused({}), {"1 x 2", "1 values"}));
  host.curvature = {1, std::nan("")};
  EXPECT_TRUE(mentions(refused({}), {"finite", "step 1"}));
}

}  // namespace
