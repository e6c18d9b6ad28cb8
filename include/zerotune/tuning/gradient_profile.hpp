// SPDX-License-Identifier: Apache-2.0
// The effect of every head at once (layer: tuning): mean and standard error over examples of
// d loss / d log gamma[layer][head], from one forward and one backward pass of the host
// (docs/mathematics.md, section 5).
#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "zerotune/core/error.hpp"
#include "zerotune/tuning/evaluator.hpp"
#include "zerotune/tuning/gamma_table.hpp"
#include "zerotune/tuning/head_profile.hpp"

namespace zerotune {

/// Below zero: the loss falls when the head attends more to the initial token (up-effective).
struct gradient_profile {
  index_t layers = 0;
  index_t heads = 0;
  index_t rows = 0;
  double loss = 0;                     ///< mean over rows
  std::vector<double> mean;            ///< [layers][heads]
  std::vector<double> standard_error;  ///< [layers][heads], of the mean; 0 with fewer than two rows
};

inline namespace ZEROTUNE_ABI {

/// @param values  losses [examples] and gradients [examples][layers][heads]
/// @throws invalid_argument if there are no examples, or the gradients' size does not fit
inline gradient_profile make_gradient_profile(const example_gradients& values, index_t layers,
                                              index_t heads) {
  constexpr const char* name = "make_gradient_profile";
  const std::size_t rows = values.loss.size(), units = static_cast<std::size_t>(layers * heads);
  if (rows == 0) impl::fail(name, "examples", "at least one", "none");
  if (values.gradient.size() != rows * units)
    impl::fail(name, "gradient dim 0 (examples x layers x heads)", std::to_string(rows * units),
               std::to_string(values.gradient.size()));
  gradient_profile profile{layers, heads, static_cast<index_t>(rows), 0, std::vector<double>(units),
                           {}};
  profile.standard_error.resize(units);
  const double count = static_cast<double>(rows);
  for (const double loss : values.loss) profile.loss += loss / count;
  for (std::size_t unit = 0; unit < units; ++unit) {
    double sum = 0, squares = 0;
    for (std::size_t i = 0; i < rows; ++i)
      sum += static_cast<double>(values.gradient[i * units + unit]);
    const double mean = sum / count;
    for (std::size_t i = 0; i < rows; ++i) {
      const double off = static_cast<double>(values.gradient[i * units + unit]) - mean;
      squares += off * off;
    }
    profile.mean[unit] = mean;
    if (rows > 1) profile.standard_error[unit] = std::sqrt(squares / (count - 1) / count);
  }
  return profile;
}

/// Profiles the untouched model: one forward and backward pass over the examples.
/// @throws invalid_argument for an empty slice, or what the host throws
template <differentiable_evaluator E>
gradient_profile profile_gradient(E& host, std::span<const index_t> examples,
                                  const loss_weights& loss,
                                  const progress_callback& progress = {}) {
  if (examples.empty()) impl::fail("profile_gradient", "examples", "at least one", "none");
  const gamma_table untouched(host.num_layers(), host.num_heads());
  return make_gradient_profile(host.differentiate(untouched, examples, loss, progress),
                               host.num_layers(), host.num_heads());
}

/// The profile that probing would measure to first order: the fall of the loss when the units of a
/// granularity get `gamma`. It costs no evaluation beyond the gradient.
/// @throws invalid_argument unless gamma is finite and > 0
inline head_profile first_order_profile(const gradient_profile& gradient, granularity unit,
                                        float gamma = 2.0f) {
  if (!(gamma > 0.0f) || !impl::is_finite(gamma))
    impl::fail("first_order_profile", "gamma", "a finite value > 0", std::to_string(gamma));
  head_profile profile{unit, gamma, gradient.layers, gradient.heads, {-gradient.loss, 0}, {}, 0};
  profile.effect.resize(
      static_cast<std::size_t>(unit_count(unit, gradient.layers, gradient.heads)));
  const double change = std::log(static_cast<double>(gamma));
  for (index_t layer = 0; layer < gradient.layers; ++layer)
    for (index_t head = 0; head < gradient.heads; ++head) {
      const index_t place = layer * gradient.heads + head;
      profile.effect[static_cast<std::size_t>(unit_of(unit, gradient.heads, layer, head))].value -=
          change * gradient.mean[static_cast<std::size_t>(place)];
    }
  return profile;
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
