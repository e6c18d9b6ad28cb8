// SPDX-License-Identifier: Apache-2.0
// The losses that a gradient is taken of, measured on answers (layer: tuning): likelihood of the
// right answer among the choices or in the whole vocabulary, entropies, and mixtures of these.
#pragma once

#include <span>
#include <string>

#include "zerotune/core/error.hpp"
#include "zerotune/tuning/evaluator.hpp"
#include "zerotune/tuning/objective.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

/// Whether a loss reads labels.
constexpr bool is_supervised(const loss_weights& weights) {
  return weights.choices != 0 || weights.vocabulary != 0;
}

/// What an evaluator must compute for a loss, and no more.
constexpr quantities needed_for(const loss_weights& weights) {
  return {.loglik = is_supervised(weights) || weights.choice_entropy != 0,
          .generated = false,
          .entropy = weights.entropy != 0};
}

/// Mean loss of a slice of answered examples, nats; zero for an empty slice. `labels` is read if
/// the loss is supervised.
/// @param results   [examples]
/// @param examples  indices into `labels`
/// @throws invalid_argument for an example without a label or whose label is not among its choices,
///         or a result too many or too few
inline double mean_loss(const loss_weights& weights, std::span<const example_result> results,
                        std::span<const index_t> examples, std::span<const index_t> labels) {
  constexpr const char* name = "mean_loss";
  impl::check_results(name, results.size(), examples.size());
  double sum = 0;
  for (std::size_t i = 0; i < results.size(); ++i) {
    sum +=
        weights.entropy * results[i].entropy + weights.choice_entropy * results[i].choice_entropy;
    if (!is_supervised(weights)) continue;
    const index_t label = impl::label_of(name, labels, examples[i]);
    if (label < 0 || label >= static_cast<index_t>(results[i].loglik.size()))
      impl::fail(name, "labels[" + std::to_string(examples[i]) + "]",
                 "an index in [0, " + std::to_string(results[i].loglik.size()) + ")",
                 label == no_label ? "none" : std::to_string(label));
    sum -= weights.choices * log_share(results[i].loglik, label) +
           weights.vocabulary * results[i].loglik[static_cast<std::size_t>(label)];
  }
  return results.empty() ? 0 : sum / static_cast<double>(results.size());
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
