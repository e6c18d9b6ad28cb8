// SPDX-License-Identifier: Apache-2.0
// Search of one gamma for the selected heads (layer: tuning; arXiv 2505.11739, sections 4 and 5):
// a grid, judged by accuracy on labelled examples or by the least entropy of the output.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "zerotune/core/error.hpp"
#include "zerotune/tuning/evaluator.hpp"
#include "zerotune/tuning/gamma_table.hpp"
#include "zerotune/tuning/head_profile.hpp"
#include "zerotune/tuning/objective.hpp"

namespace zerotune {

/// How gamma is searched.
struct search_options {
  /// Candidates; gamma = 1, the untouched model, is always one more.
  std::vector<float> grid{0.3f, 0.5f, 0.7f, 1.4f, 2.0f, 2.5f, 3.0f, 4.0f};
  objective goal = objective::accuracy;
  /// Cap on choice_divergence from the untouched model, nats; only the unsupervised objectives
  /// need it: a model that says the same thing whatever it reads has the least entropy of all.
  double max_divergence = 0.5;
};

/// One value of gamma and what came of it.
struct search_candidate {
  float gamma = 1.0f;
  objective_score score;
  double divergence = 0;  ///< choice_divergence from the untouched model
  bool admitted = true;   ///< within the cap
};

/// What a search found. A search that found nothing better than the untouched model chose gamma 1.
struct search_outcome {
  std::vector<search_candidate> candidates;          ///< in ascending order of gamma
  std::size_t best = 0;                              ///< index of the one chosen
  std::vector<std::vector<example_result>> results;  ///< [candidates][examples]
  std::vector<std::string> warnings;
  index_t forward_rows = 0;

  ZEROTUNE_ALWAYS_INLINE float gamma() const { return candidates[best].gamma; }
};

inline namespace ZEROTUNE_ABI {

/// The grid in ascending order, each value once, with 1 among them.
/// @throws invalid_argument for a value that is negative, NaN or infinite
inline std::vector<float> complete_grid(std::vector<float> grid) {
  for (std::size_t i = 0; i < grid.size(); ++i)
    if (!impl::is_valid_gamma(grid[i]))
      impl::fail("complete_grid", "grid[" + std::to_string(i) + "]", "a finite value >= 0",
                 impl::is_finite(grid[i]) ? std::to_string(grid[i]) : "a value that is not finite");
  grid.push_back(1.0f);
  std::sort(grid.begin(), grid.end());
  grid.erase(std::unique(grid.begin(), grid.end()), grid.end());
  return grid;
}

namespace impl {

/// How far a gamma is from doing nothing: between equals, the least change wins.
inline double strength(float gamma) {
  return gamma > 0.0f ? std::fabs(std::log(static_cast<double>(gamma))) : 1e30;
}

}  // namespace impl

/// Chooses among measured candidates: the best admitted score, and among equals the gamma nearest
/// to 1. Warns when the unsupervised choice lies at an end of the grid, where the minimum may be
/// beyond it, and when the cap removed candidates.
/// @param candidates  in ascending order of gamma, gamma = 1 among them
/// @throws invalid_argument if gamma = 1 is missing
inline search_outcome choose_candidate(std::vector<search_candidate> candidates,
                                       const search_options& options) {
  search_outcome outcome;
  std::size_t best = candidates.size();
  for (std::size_t i = 0; i < candidates.size(); ++i)
    if (candidates[i].gamma == 1.0f) best = i;
  if (best == candidates.size())
    impl::fail("choose_candidate", "candidates", "gamma = 1 among them", "none such");
  const bool supervised = options.goal == objective::accuracy;
  std::size_t refused = 0;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    search_candidate& candidate = candidates[i];
    candidate.admitted =
        supervised || candidate.gamma == 1.0f || candidate.divergence <= options.max_divergence;
    refused += !candidate.admitted;
    if (!candidate.admitted) continue;
    const search_candidate& champion = candidates[best];
    if (better(candidate.score, champion.score) ||
        (candidate.score == champion.score &&
         impl::strength(candidate.gamma) < impl::strength(champion.gamma)))
      best = i;
  }
  outcome.best = best;
  if (!supervised) {
    if (candidates.size() > 1 && (best == 0 || best + 1 == candidates.size()))
      outcome.warnings.push_back("the entropy is least at the edge of the grid (gamma " +
                                 std::to_string(candidates[best].gamma) +
                                 "): its minimum may lie beyond, and low entropy is not accuracy");
    if (refused > 0)
      outcome.warnings.push_back(std::to_string(refused) +
                                 " candidate(s) moved the choices further from the untouched "
                                 "model than the cap allows");
  }
  outcome.candidates = std::move(candidates);
  return outcome;
}

/// Evaluates the selected units at every gamma of the grid: grid * examples rows (one slice less
/// when `untouched` is given).
/// @param units      what is scaled, as select_units gives them
/// @param labels     [rows of data]; read for objective::accuracy alone
/// @param untouched  results of the same examples under gamma = 1 if the caller has them, else
/// empty
/// @throws invalid_argument for an invalid gamma or unit, an empty slice, or a missing label
template <evaluator E>
search_outcome search_gamma(E& host, granularity unit, std::span<const index_t> units,
                            std::span<const index_t> examples, std::span<const index_t> labels,
                            const search_options& options = {},
                            const progress_callback& progress = {},
                            std::span<const example_result> untouched = {}) {
  if (examples.empty()) impl::fail("search_gamma", "examples", "at least one", "none");
  const index_t layers = host.num_layers(), heads = host.num_heads();
  std::vector<search_candidate> candidates;
  std::vector<gamma_table> tables;
  std::size_t reference = 0;  // where gamma = 1 stands
  for (const float gamma : complete_grid(options.grid)) {
    if (gamma == 1.0f) reference = candidates.size();
    candidates.push_back({gamma, {}, 0, true});
    if (gamma != 1.0f || untouched.empty())
      tables.push_back(unit_table(unit, layers, heads, units, gamma));
  }
  auto results = evaluate_tables(host, tables, examples, needed_for(options.goal), progress);
  if (!untouched.empty())
    results.insert(results.begin() + static_cast<std::ptrdiff_t>(reference),
                   std::vector<example_result>(untouched.begin(), untouched.end()));
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    candidates[i].score = measure(options.goal, results[i], examples, labels);
    candidates[i].divergence = choice_divergence(results[reference], results[i]);
  }
  search_outcome outcome = choose_candidate(std::move(candidates), options);
  outcome.results = std::move(results);
  outcome.forward_rows = static_cast<index_t>(tables.size() * examples.size());
  return outcome;
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
