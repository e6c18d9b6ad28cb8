// SPDX-License-Identifier: Apache-2.0
// What a search makes large (layer: tuning): accuracy or likelihood on labelled examples, or less
// entropy of the model's output, which needs no label and is not accuracy.
#pragma once

#include <cmath>
#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "zerotune/core/error.hpp"
#include "zerotune/tuning/evaluator.hpp"

namespace zerotune {

/// Supervised, and the paper's unsupervised objectives over the vocabulary or the choices.
enum class objective {
  accuracy,        ///< mean of the two scores' accuracies; ties broken by the answer's likelihood
  likelihood,      ///< mean logarithm of the answer's share among the choices; ties: accuracy
  entropy,         ///< least entropy of the next-token distribution
  choice_entropy,  ///< least entropy over the choices
};

/// How well a slice of examples was answered: `value` first, `tie` between equal values. More is
/// better in both.
struct objective_score {
  double value = 0;
  double tie = 0;
  friend bool operator==(const objective_score&, const objective_score&) = default;
};

/// Shares of right answers by each score, and of answers that are none of the choices.
struct accuracies {
  double likelihood = 0;
  double generated = 0;
  double invalid = 0;
  index_t rows = 0;
};

inline namespace ZEROTUNE_ABI {

/// Whether a is better than b.
constexpr bool better(const objective_score& a, const objective_score& b) {
  return a.value != b.value ? a.value > b.value : a.tie > b.tie;
}

/// Whether an objective reads labels.
constexpr bool is_supervised(objective goal) {
  return goal == objective::accuracy || goal == objective::likelihood;
}

/// What an evaluator must compute for an objective, and no more.
constexpr quantities needed_for(objective goal) {
  switch (goal) {
    case objective::accuracy:
    case objective::likelihood:
      return {.loglik = true, .generated = true, .entropy = false};
    case objective::entropy:
      return {.loglik = true, .generated = false, .entropy = true};
    case objective::choice_entropy:
      break;
  }
  return {.loglik = true, .generated = false, .entropy = false};
}

namespace impl {

inline index_t label_of(const char* function, std::span<const index_t> labels, index_t example) {
  if (example < 0 || example >= static_cast<index_t>(labels.size()))
    fail(function, "examples", "indices in [0, " + std::to_string(labels.size()) + ")",
         std::to_string(example));
  return labels[static_cast<std::size_t>(example)];
}

inline void check_results(const char* function, std::size_t results, std::size_t examples) {
  if (results != examples)
    fail(function, "results", "one for each of " + std::to_string(examples) + " examples",
         std::to_string(results));
}

}  // namespace impl

/// @param results   [examples]
/// @param examples  indices into `labels`
/// @param labels    [rows of data]
/// @throws invalid_argument for an example without a label, which counts as none of the choices
///         nowhere, or a result too many or too few
inline accuracies measure_accuracies(std::span<const example_result> results,
                                     std::span<const index_t> examples,
                                     std::span<const index_t> labels) {
  constexpr const char* name = "measure_accuracies";
  impl::check_results(name, results.size(), examples.size());
  accuracies sums;
  for (std::size_t i = 0; i < results.size(); ++i) {
    const index_t label = impl::label_of(name, labels, examples[i]);
    if (label == no_label)
      impl::fail(name, "labels[" + std::to_string(examples[i]) + "]", "a label", "none");
    sums.likelihood += results[i].predicted == label;
    sums.generated += results[i].generated == label;
    sums.invalid += !results[i].valid();
  }
  sums.rows = static_cast<index_t>(results.size());
  if (sums.rows == 0) return sums;
  const double rows = static_cast<double>(sums.rows);
  return {sums.likelihood / rows, sums.generated / rows, sums.invalid / rows, sums.rows};
}

/// Logarithm of the right choice's share among the choices. A floor keeps one hopeless row from
/// deciding everything, and sums finite.
/// @pre label is an index into loglik
inline double log_share(std::span<const double> loglik, index_t label) {
  constexpr double least = 1e-12;
  const double p = choice_probabilities(loglik)[static_cast<std::size_t>(label)];
  return std::log(p > least ? p : least);
}

/// What each example adds to the objective: measure() is their mean. `labels` is read for the
/// supervised objectives alone.
/// @param results   [examples]
/// @param examples  indices into `labels`
/// @throws invalid_argument for an example without a label or whose label is not among its choices,
///         or a result too many or too few
inline std::vector<objective_score> score_examples(objective goal,
                                                   std::span<const example_result> results,
                                                   std::span<const index_t> examples,
                                                   std::span<const index_t> labels) {
  constexpr const char* name = "score_examples";
  impl::check_results(name, results.size(), examples.size());
  std::vector<objective_score> scores;
  scores.reserve(results.size());
  for (std::size_t i = 0; i < results.size(); ++i) {
    const example_result& result = results[i];
    if (!is_supervised(goal)) {
      const objective_score score{-result.entropy, -result.choice_entropy};
      scores.push_back(goal == objective::entropy ? score
                                                  : objective_score{score.tie, score.value});
      continue;
    }
    const index_t label = impl::label_of(name, labels, examples[i]);
    if (label < 0 || label >= static_cast<index_t>(result.loglik.size()))
      impl::fail(name, "labels[" + std::to_string(examples[i]) + "]",
                 "an index in [0, " + std::to_string(result.loglik.size()) + ")",
                 label == no_label ? "none" : std::to_string(label));
    const objective_score score{
        ((result.predicted == label ? 1.0 : 0.0) + (result.generated == label ? 1.0 : 0.0)) / 2,
        log_share(result.loglik, label)};
    scores.push_back(goal == objective::accuracy ? score : objective_score{score.tie, score.value});
  }
  return scores;
}

/// The objective's value over a slice of examples; zero for an empty slice.
/// @throws invalid_argument as score_examples does
inline objective_score measure(objective goal, std::span<const example_result> results,
                               std::span<const index_t> examples, std::span<const index_t> labels) {
  objective_score sum;
  for (const objective_score& score : score_examples(goal, results, examples, labels)) {
    sum.value += score.value;
    sum.tie += score.tie;
  }
  const double rows = static_cast<double>(results.size());
  return results.empty() ? sum : objective_score{sum.value / rows, sum.tie / rows};
}

/// How evenly the predicted labels are spread: the entropy of their shares over the slice, nats. A
/// model that says one thing whatever it reads has 0, however sure it is of it.
inline double label_spread(std::span<const example_result> results) {
  std::map<index_t, double> counts;
  for (const example_result& result : results) counts[result.predicted] += 1;
  double entropy = 0;
  for (const auto& [label, count] : counts) {
    const double share = count / static_cast<double>(results.size());
    entropy -= share * std::log(share);
  }
  return entropy;
}

/// How far the choices' distribution moved: mean over examples of KL(before || after), nats.
/// @throws invalid_argument if the two differ in examples or choices
inline double choice_divergence(std::span<const example_result> before,
                                std::span<const example_result> after) {
  constexpr const char* name = "choice_divergence";
  impl::check_results(name, after.size(), before.size());
  if (before.empty()) return 0;
  double sum = 0;
  for (std::size_t i = 0; i < before.size(); ++i) {
    const std::vector<double> p = choice_probabilities(before[i].loglik);
    const std::vector<double> q = choice_probabilities(after[i].loglik);
    if (p.size() != q.size())
      impl::fail(name, "after[" + std::to_string(i) + "].loglik",
                 std::to_string(p.size()) + " choices", std::to_string(q.size()));
    for (std::size_t c = 0; c < p.size(); ++c)
      if (p[c] > 0) sum += p[c] * (std::log(p[c]) - std::log(q[c] > 1e-300 ? q[c] : 1e-300));
  }
  return sum / static_cast<double>(before.size());
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
