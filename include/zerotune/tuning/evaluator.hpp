// SPDX-License-Identifier: Apache-2.0
// What a host offers to be tuned (layer: tuning). The library knows nothing of models: an evaluator
// is given a gamma table and some examples and says how the model answers them.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "zerotune/core/error.hpp"
#include "zerotune/core/types.hpp"
#include "zerotune/tuning/gamma_table.hpp"

namespace zerotune {

/// Stands for "no label": an unlabelled example, or an answer that is none of the choices.
inline constexpr index_t no_label = -1;

/// What is wanted of an evaluation; an evaluator may leave the rest at its default.
struct quantities {
  bool loglik = true;     ///< example_result::loglik, predicted and choice_entropy
  bool generated = true;  ///< example_result::generated
  bool entropy = true;    ///< example_result::entropy
};

/// How the model answered one example.
struct example_result {
  index_t predicted = no_label;  ///< choice of the largest likelihood, the lowest of equals
  index_t generated = no_label;  ///< choice that the greedy continuation names; no_label: invalid
  std::vector<double> loglik;    ///< per choice, natural logarithm
  double entropy = 0;            ///< of the next-token distribution, whole vocabulary, nats
  double choice_entropy = 0;     ///< of the softmax of `loglik`, nats
  ZEROTUNE_ALWAYS_INLINE bool valid() const { return generated != no_label; }
  friend bool operator==(const example_result&, const example_result&) = default;
};

/// Called with (rows done, rows in all), never from two threads at once. May be empty.
using progress_callback = std::function<void(index_t done, index_t total)>;

/// The parts of a loss that a gradient is asked for; the loss is their weighted sum.
struct loss_weights {
  double choices = 1;         ///< -log of the right choice's share among the choices
  double vocabulary = 0;      ///< -log-likelihood of the right choice
  double entropy = 0;         ///< entropy of the next-token distribution
  double choice_entropy = 0;  ///< entropy over the choices
};

/// Losses and gradients of a slice of examples.
struct example_gradients {
  std::vector<double> loss;     ///< [examples]
  std::vector<float> gradient;  ///< [examples][layers][heads], d loss / d log gamma
};

inline namespace ZEROTUNE_ABI {

/// `evaluate` answers the examples with the given indices, in their order, under the gamma table
/// [num_layers][num_heads]. It must return the same values for any number of threads and however
/// the examples are sliced, and reports its progress if the callback is not empty.
template <class E>
concept evaluator = requires(E& host, const gamma_table& gamma, std::span<const index_t> examples,
                             const quantities& wanted, const progress_callback& progress) {
  { host.num_layers() } -> std::convertible_to<index_t>;
  { host.num_heads() } -> std::convertible_to<index_t>;
  { host.evaluate(gamma, examples, wanted, progress) } -> std::same_as<std::vector<example_result>>;
};

/// An evaluator that answers the same examples under several tables in one go; a result per table.
template <class E>
concept many_evaluator = evaluator<E> &&
    requires(E& host, std::span<const gamma_table> gammas, std::span<const index_t> examples,
             const quantities& wanted, const progress_callback& progress) {
  {
    host.evaluate_many(gammas, examples, wanted, progress)
    } -> std::same_as<std::vector<std::vector<example_result>>>;
};

/// An evaluator that also gives every example's gradient with respect to log gamma.
template <class E>
concept differentiable_evaluator = evaluator<E> &&
    requires(E& host, const gamma_table& gamma, std::span<const index_t> examples,
             const loss_weights& weights, const progress_callback& progress) {
  { host.differentiate(gamma, examples, weights, progress) } -> std::same_as<example_gradients>;
};

/// Evaluates the same examples under each table: in one go where the host can, else in turn. The
/// progress counts rows over all tables.
/// @throws invalid_argument if the host returns another number of results than tables or examples
template <evaluator E>
std::vector<std::vector<example_result>> evaluate_tables(E& host,
                                                         std::span<const gamma_table> gammas,
                                                         std::span<const index_t> examples,
                                                         const quantities& wanted,
                                                         const progress_callback& progress = {}) {
  std::vector<std::vector<example_result>> results;
  if constexpr (many_evaluator<E>) {
    results = host.evaluate_many(gammas, examples, wanted, progress);
  } else {
    const index_t rows = static_cast<index_t>(examples.size());
    const index_t total = rows * static_cast<index_t>(gammas.size());
    for (const gamma_table& gamma : gammas) {
      const index_t before = rows * static_cast<index_t>(results.size());
      progress_callback part;
      if (progress) part = [&](index_t done, index_t) { progress(before + done, total); };
      results.push_back(host.evaluate(gamma, examples, wanted, part));
    }
  }
  const auto expect = [](const std::string& what, std::size_t expected, std::size_t got) {
    if (got != expected)
      impl::fail("evaluate_tables", what, std::to_string(expected), std::to_string(got));
  };
  expect("results dim 0 (tables)", gammas.size(), results.size());
  for (const auto& result : results)
    expect("results dim 1 (examples)", examples.size(), result.size());
  return results;
}

/// Softmax of log-likelihoods; all alike where none is above -infinity; empty for an empty input.
inline std::vector<double> choice_probabilities(std::span<const double> loglik) {
  std::vector<double> result(loglik.begin(), loglik.end());
  if (result.empty()) return result;
  const double largest = *std::max_element(result.begin(), result.end());
  if (!impl::is_finite(largest) && largest < 0) {
    for (double& value : result) value = 1.0 / static_cast<double>(result.size());
    return result;
  }
  double sum = 0;
  for (double& value : result) sum += value = std::exp(value - largest);
  for (double& value : result) value /= sum;
  return result;
}

/// Entropy of the softmax of log-likelihoods, nats.
inline double choice_entropy(std::span<const double> loglik) {
  double entropy = 0;
  for (const double p : choice_probabilities(loglik))
    if (p > 0) entropy -= p * std::log(p);
  return entropy;
}

/// The index of the largest, ties to the lowest; no_label for an empty input.
inline index_t largest_choice(std::span<const double> values) {
  index_t best = no_label;
  for (std::size_t i = 0; i < values.size(); ++i)
    if (best == no_label || values[i] > values[static_cast<std::size_t>(best)])
      best = static_cast<index_t>(i);
  return best;
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
