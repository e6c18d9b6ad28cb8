// SPDX-License-Identifier: Apache-2.0
// Gradient descent on log gamma[layer][head] (layer: tuning): Adam (Kingma and Ba, 2015, algorithm
// 1) on the mean loss of seeded minibatches, bounded, with optional pulls towards the untouched
// model and towards one value per layer or per head index.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "zerotune/core/error.hpp"
#include "zerotune/tuning/evaluator.hpp"
#include "zerotune/tuning/gamma_table.hpp"
#include "zerotune/tuning/splits.hpp"

namespace zerotune {

/// How log gamma descends. With theta = log gamma the objective is
/// mean loss + pull / 2 sum theta^2 + layer_sharing / 2 sum (theta - its layer's mean)^2
///           + head_sharing / 2 sum (theta - its head index's mean)^2.
struct descent_options {
  index_t steps = 48;
  double step_size = 0.15;  ///< on log gamma: about what a head moves in one step
  double beta1 = 0.8;       ///< of the running mean of the gradient
  double beta2 = 0.95;      ///< of the running mean of its square
  double epsilon = 1e-8;
  double limit = 3;        ///< |log gamma| is kept within it
  index_t batch = 8;       ///< examples of a step; 0: all
  std::uint64_t seed = 1;  ///< of the minibatches
  double pull = 0;
  double layer_sharing = 0;
  double head_sharing = 0;
  /// Steps after which the table is kept, besides the last one; the first step is 1.
  std::vector<index_t> keep{2, 4, 8, 12, 16, 24, 32, 48, 64};
  loss_weights loss{.choices = 1, .vocabulary = 1};
};

/// One step as it was taken.
struct descent_step {
  index_t step = 0;          ///< from 1
  double loss = 0;           ///< of its minibatch before the step, without the pulls
  double gradient_norm = 0;  ///< Euclidean, of the minibatch's loss
};

/// The table after some steps.
struct descent_snapshot {
  index_t step = 0;
  gamma_table gamma;
};

/// Where the descent went.
struct descent_outcome {
  std::vector<descent_step> steps;
  std::vector<descent_snapshot> snapshots;
  index_t at_limit = 0;        ///< heads that ended at the limit
  bool stopped_early = false;  ///< by the caller's watch
};

/// Called with each snapshot; false ends the descent.
using descent_watch = std::function<bool(const descent_snapshot&)>;

inline namespace ZEROTUNE_ABI {

namespace impl {

inline void check_descent(const descent_options& options, std::size_t examples) {
  constexpr const char* name = "descend";
  if (examples == 0) fail(name, "examples", "at least one", "none");
  const auto positive = [](const char* what, double value) {
    if (!(value > 0) || !is_finite(value)) fail(name, what, "a finite value > 0", number(value));
  };
  const auto at_least_zero = [](const char* what, double value) {
    if (!(value >= 0) || !is_finite(value)) fail(name, what, "a finite value >= 0", number(value));
  };
  const auto share = [](const char* what, double value) {
    if (!(value >= 0 && value < 1)) fail(name, what, "a value in [0, 1)", number(value));
  };
  if (options.steps < 1) fail(name, "steps", "at least 1", std::to_string(options.steps));
  if (options.batch < 0) fail(name, "batch", "at least 0", std::to_string(options.batch));
  positive("step_size", options.step_size);
  positive("epsilon", options.epsilon);
  positive("limit", options.limit);
  // Beyond it a gamma is not a finite float, or zero.
  if (options.limit > 80) fail(name, "limit", "at most 80", number(options.limit));
  share("beta1", options.beta1);
  share("beta2", options.beta2);
  at_least_zero("pull", options.pull);
  at_least_zero("layer_sharing", options.layer_sharing);
  at_least_zero("head_sharing", options.head_sharing);
}

/// Endless minibatches: each pass over the examples is a new order in which every stretch holds the
/// labels in about the same proportions.
class minibatches {
 public:
  minibatches(std::span<const index_t> examples, std::span<const index_t> labels, index_t size,
              std::uint64_t seed)
      : examples_(examples.begin(), examples.end()), seed_(seed) {
    const std::size_t all = examples_.size();
    size_ = size == 0 ? all : std::min(all, static_cast<std::size_t>(size));
    for (const index_t example : examples)
      labels_.push_back(example >= 0 && example < static_cast<index_t>(labels.size())
                            ? labels[static_cast<std::size_t>(example)]
                            : no_label);
  }

  std::vector<index_t> next() {
    if (size_ == examples_.size()) return examples_;
    std::vector<index_t> batch;
    while (batch.size() < size_) {
      if (order_.empty()) {
        order_ = stratified_order(labels_, seed_++);
        std::reverse(order_.begin(), order_.end());  // taken from the back
      }
      batch.push_back(examples_[static_cast<std::size_t>(order_.back())]);
      order_.pop_back();
    }
    return batch;
  }

 private:
  std::vector<index_t> examples_, labels_, order_;
  std::size_t size_ = 0;
  std::uint64_t seed_;
};

/// log gamma of every head with Adam's running means.
class log_gamma_optimizer {
 public:
  log_gamma_optimizer(index_t layers, index_t heads, const descent_options& options)
      : layers_(layers), heads_(heads), options_(options) {
    const std::size_t units = static_cast<std::size_t>(layers * heads);
    for (auto* values : {&theta_, &mean_, &square_}) values->assign(units, 0.0);
  }

  gamma_table table() const {
    gamma_table gamma(layers_, heads_);
    for (index_t layer = 0; layer < layers_; ++layer)
      for (index_t head = 0; head < heads_; ++head)
        gamma(layer, head) = static_cast<float>(std::exp(theta_[place(layer, head)]));
    return gamma;
  }

  index_t at_limit() const {
    return std::count_if(theta_.begin(), theta_.end(),
                         [&](double value) { return std::fabs(value) >= options_.limit; });
  }

  /// One step along the gradient of the mean loss, [layers][heads].
  void step(std::vector<double> gradient) {
    add_pulls(gradient);
    ++steps_;
    const double unbias1 = 1 - std::pow(options_.beta1, steps_);
    const double unbias2 = 1 - std::pow(options_.beta2, steps_);
    for (std::size_t i = 0; i < theta_.size(); ++i) {
      mean_[i] += (1 - options_.beta1) * (gradient[i] - mean_[i]);
      square_[i] += (1 - options_.beta2) * (gradient[i] * gradient[i] - square_[i]);
      const double move = mean_[i] / unbias1 / (std::sqrt(square_[i] / unbias2) + options_.epsilon);
      theta_[i] =
          std::clamp(theta_[i] - options_.step_size * move, -options_.limit, options_.limit);
    }
  }

 private:
  std::size_t place(index_t layer, index_t head) const {
    return static_cast<std::size_t>(layer * heads_ + head);
  }

  void add_pulls(std::vector<double>& gradient) const {
    for (std::size_t i = 0; i < theta_.size(); ++i) gradient[i] += options_.pull * theta_[i];
    if (options_.layer_sharing > 0)
      for (index_t layer = 0; layer < layers_; ++layer)
        pull_together(gradient, place(layer, 0), 1, heads_, options_.layer_sharing);
    if (options_.head_sharing > 0)
      for (index_t head = 0; head < heads_; ++head)
        pull_together(gradient, place(0, head), heads_, layers_, options_.head_sharing);
  }

  // The gradient of weight / 2 sum (theta - mean)^2 is weight (theta - mean).
  void pull_together(std::vector<double>& gradient, std::size_t first, index_t stride,
                     index_t count, double weight) const {
    double sum = 0;
    for (index_t i = 0; i < count; ++i) sum += theta_[first + static_cast<std::size_t>(i * stride)];
    for (index_t i = 0; i < count; ++i) {
      const std::size_t at = first + static_cast<std::size_t>(i * stride);
      gradient[at] += weight * (theta_[at] - sum / static_cast<double>(count));
    }
  }

  index_t layers_, heads_;
  descent_options options_;
  int steps_ = 0;
  std::vector<double> theta_, mean_, square_;
};

}  // namespace impl

/// Descends from the untouched model: steps * batch forward and backward rows, fewer if `watch`
/// ends it.
/// @param examples  rows to learn from
/// @param labels    [rows of data]; only minibatches read them, to hold the labels in proportion
/// @param watch     sees the snapshots as they are made; may be empty
/// @throws invalid_argument for an empty slice, an option out of range, or a gradient of another
///         size or one that is not finite
template <differentiable_evaluator E>
descent_outcome descend(E& host, std::span<const index_t> examples, std::span<const index_t> labels,
                        const descent_options& options = {}, const progress_callback& progress = {},
                        const descent_watch& watch = {}) {
  constexpr const char* name = "descend";
  impl::check_descent(options, examples.size());
  const std::size_t units = static_cast<std::size_t>(host.num_layers() * host.num_heads());
  impl::log_gamma_optimizer optimizer(host.num_layers(), host.num_heads(), options);
  impl::minibatches batches(examples, labels, options.batch, options.seed);
  descent_outcome outcome;
  gamma_table gamma = optimizer.table();
  for (index_t step = 1; step <= options.steps && !outcome.stopped_early; ++step) {
    const std::vector<index_t> batch = batches.next();
    progress_callback part;
    const index_t rows = static_cast<index_t>(batch.size());
    if (progress)
      part = [&, before = (step - 1) * rows](index_t done, index_t) {
        progress(before + done, options.steps * rows);
      };
    const example_gradients values = host.differentiate(gamma, batch, options.loss, part);
    if (values.loss.size() != batch.size() || values.gradient.size() != batch.size() * units)
      impl::fail(name, "gradients of the evaluator",
                 std::to_string(batch.size()) + " x " + std::to_string(units),
                 std::to_string(values.loss.size()) + " losses, " +
                     std::to_string(values.gradient.size()) + " values");
    std::vector<double> mean(units);
    descent_step taken{step, 0, 0};
    for (std::size_t i = 0; i < batch.size(); ++i) {
      taken.loss += values.loss[i] / static_cast<double>(rows);
      for (std::size_t unit = 0; unit < units; ++unit)
        mean[unit] +=
            static_cast<double>(values.gradient[i * units + unit]) / static_cast<double>(rows);
    }
    for (const double value : mean) taken.gradient_norm += value * value;
    taken.gradient_norm = std::sqrt(taken.gradient_norm);
    if (!impl::is_finite(taken.gradient_norm))
      impl::fail(name, "gradients of the evaluator", "finite values",
                 "others in step " + std::to_string(step));
    optimizer.step(std::move(mean));
    gamma = optimizer.table();
    outcome.steps.push_back(taken);
    const bool kept =
        std::find(options.keep.begin(), options.keep.end(), step) != options.keep.end();
    if (kept || step == options.steps) {
      outcome.snapshots.push_back({step, gamma});
      outcome.stopped_early = watch && !watch(outcome.snapshots.back());
    }
  }
  outcome.stopped_early = outcome.stopped_early && outcome.steps.back().step < options.steps;
  outcome.at_limit = optimizer.at_limit();
  return outcome;
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
