// SPDX-License-Identifier: Apache-2.0
// Search of a gamma table (layer: tuning): one gamma for all heads, the paper's procedure
// (arXiv 2505.11739, sections 4 and 5), selection by gradient and descent, each alone or in a race
// with the others on the search split.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "zerotune/core/error.hpp"
#include "zerotune/tuning/candidates.hpp"
#include "zerotune/tuning/descent.hpp"
#include "zerotune/tuning/evaluator.hpp"
#include "zerotune/tuning/gradient_profile.hpp"
#include "zerotune/tuning/head_profile.hpp"
#include "zerotune/tuning/race.hpp"
#include "zerotune/tuning/recorded_evaluator.hpp"

namespace zerotune {

/// Where candidates come from. The untouched model is always one.
struct search_methods {
  bool uniform = false;          ///< one gamma for all heads
  bool paper = false;            ///< one gamma for the strongest units of the dominant kind
  bool gradient_select = false;  ///< the strongest heads of a gradient profile
  bool descent = false;          ///< the table after some steps of descent
};

/// How the paper's procedure learns what its units do.
enum class profiling {
  probe,    ///< as in the paper: one evaluation of the profile split per unit
  gradient  ///< to first order, from the gradient profile
};

/// How a table is searched.
struct search_options {
  search_methods methods;
  std::vector<float> grid{0.3f, 0.5f, 0.7f, 1.4f, 2.0f, 2.5f, 3.0f, 4.0f};  ///< uniform and paper
  profiling profile = profiling::probe;                                     ///< paper
  probe_options probe;                                                      ///< paper
  double share = 0.4;  ///< paper: of the units, at most
  gradient_select_options select;
  descent_options descent;    ///< its loss is the gradient profile's too
  index_t watched_rows = 32;  ///< examples of the search split that judge the descent's snapshots
  index_t patience = 3;  ///< the descent ends after as many snapshots in a row better in nothing
  race_options race{.margin = 1};
};

/// What a search found and how.
struct search_outcome {
  std::optional<head_profile> profile;  ///< paper
  head_kind kind = head_kind::up;       ///< paper: the dominant one
  std::vector<index_t> selected;        ///< paper: units
  std::optional<gradient_profile> gradient;
  std::optional<descent_outcome> descent;
  std::vector<tuning_candidate> candidates;  ///< the untouched model first
  race_outcome race;
  std::vector<std::string> warnings;

  ZEROTUNE_ALWAYS_INLINE_HOST const tuning_candidate& chosen() const {
    return candidates[race.chosen];
  }
};

/// Called with the name of each phase before it begins; what it returns sees the phase's progress.
using phase_callback = std::function<progress_callback(const char* phase)>;

inline namespace ZEROTUNE_ABI {

namespace impl {

/// One search: gathers candidates method by method, then races them.
template <evaluator E>
class table_search {
 public:
  table_search(recorded_evaluator<E>& host, std::span<const index_t> profile_rows,
               std::span<const index_t> search_rows, std::span<const index_t> labels,
               const search_options& options, const phase_callback& phases)
      : host_(host),
        profile_rows_(profile_rows),
        search_rows_(search_rows),
        labels_(labels),
        options_(options),
        phases_(phases) {
    check();
  }

  search_outcome run() {
    out_.candidates.push_back(untouched_candidate(host_.num_layers(), host_.num_heads()));
    const search_methods& methods = options_.methods;
    if (needs_gradient()) measure_gradient();
    if (methods.uniform)
      add(grid_candidates("uniform", granularity::head_index, host_.num_layers(), host_.num_heads(),
                          all_units(granularity::head_index, host_.num_layers(), host_.num_heads()),
                          options_.grid));
    if (methods.paper) add_paper();
    if (methods.gradient_select) add(gradient_select_candidates(*out_.gradient, options_.select));
    if (methods.descent) add_descent();
    out_.race = race(host_, out_.candidates, search_rows_, labels_, options_.race,
                     phase("comparing candidates"));
    for (const std::string& warning : out_.race.warnings) out_.warnings.push_back(warning);
    return std::move(out_);
  }

 private:
  static constexpr const char* name_ = "search_table";

  bool needs_gradient() const {
    const search_methods& methods = options_.methods;
    return methods.gradient_select || methods.descent ||
           (methods.paper && options_.profile == profiling::gradient);
  }

  void check() const {
    const search_methods& methods = options_.methods;
    if (!(methods.uniform || methods.paper || methods.gradient_select || methods.descent))
      fail(name_, "methods", "at least one, as in search_options{.methods = {.uniform = true}}",
           "none");
    for (const std::span<const index_t> rows : {profile_rows_, search_rows_})
      for (const index_t row : rows)
        if (row < 0 || row >= static_cast<index_t>(labels_.size()))
          fail(name_, "labels", "one for each row of data, " + std::to_string(row) + " among them",
               std::to_string(labels_.size()) + " labels");
    if (search_rows_.empty()) fail(name_, "search rows", "at least one", "none");
    if (profile_rows_.empty() && (methods.paper || needs_gradient()))
      fail(name_, "profile rows", "at least one for a method other than uniform", "none");
    if (needs_gradient() && !differentiable_evaluator<E>)
      fail(name_, "methods", "uniform or paper with probes, as the evaluator gives no gradients",
           "one that needs them");
    if (options_.watched_rows < 1)
      fail(name_, "watched_rows", "at least 1", std::to_string(options_.watched_rows));
    if (options_.patience < 1)
      fail(name_, "patience", "at least 1", std::to_string(options_.patience));
  }

  progress_callback phase(const char* name) const {
    return phases_ ? phases_(name) : progress_callback();
  }

  void add(std::vector<tuning_candidate> candidates) {
    for (tuning_candidate& candidate : candidates) {
      bool known = false;
      for (const tuning_candidate& other : out_.candidates)
        known = known || other.gamma == candidate.gamma;
      if (!known) out_.candidates.push_back(std::move(candidate));
    }
  }

  void measure_gradient() {
    if constexpr (differentiable_evaluator<E>)
      out_.gradient = profile_gradient(host_, profile_rows_, options_.descent.loss,
                                       phase("gradient of every head"));
  }

  void add_paper() {
    const granularity unit = options_.probe.unit;
    if (options_.profile == profiling::gradient)
      out_.profile = first_order_profile(*out_.gradient, unit, options_.probe.gamma);
    else
      out_.profile =
          profile_heads(host_, profile_rows_, labels_, options_.probe, phase("probing heads"));
    out_.kind = dominant_kind(*out_.profile);
    out_.selected = select_units(*out_.profile, out_.kind, options_.share);
    if (out_.selected.empty())
      out_.warnings.push_back(
          "no head had any effect on the profile split: the paper's procedure selected nothing");
    add(grid_candidates("paper", unit, host_.num_layers(), host_.num_heads(), out_.selected,
                        options_.grid));
  }

  void add_descent() {
    if constexpr (differentiable_evaluator<E>) {
      out_.descent =
          descend(host_, profile_rows_, labels_, options_.descent, phase("descent"), watch());
      std::vector<tuning_candidate> candidates;
      for (descent_snapshot& snapshot : out_.descent->snapshots)
        candidates.push_back(
            {snapshot.gamma, "descent", std::to_string(snapshot.step) + " steps", {}});
      add(std::move(candidates));
      if (out_.descent->at_limit > 0)
        out_.warnings.push_back(std::to_string(out_.descent->at_limit) +
                                " head(s) reached the descent's limit");
    }
  }

  // Judges snapshots on the beginning of the search split. The race asks for the same answers, so
  // they cost little more. A few rows move by whole answers, so the tie-breaker counts as well:
  // descent first repairs the form of the answers, then what they say.
  descent_watch watch() {
    const std::size_t rows =
        std::min(search_rows_.size(), static_cast<std::size_t>(options_.watched_rows));
    return [this, watched = search_rows_.first(rows), best = std::optional<objective_score>(),
            idle = index_t{0}](const descent_snapshot& snapshot) mutable {
      const auto results = host_.evaluate(snapshot.gamma, watched, needed_for(options_.race.goal));
      const objective_score score = measure(options_.race.goal, results, watched, labels_);
      const bool improved = !best || score.value > best->value || score.tie > best->tie;
      idle = improved ? 0 : idle + 1;
      if (!best) best = score;
      best = {std::max(best->value, score.value), std::max(best->tie, score.tie)};
      return idle < options_.patience;
    };
  }

  recorded_evaluator<E>& host_;
  std::span<const index_t> profile_rows_, search_rows_, labels_;
  const search_options& options_;
  const phase_callback& phases_;
  search_outcome out_;
};

}  // namespace impl

/// Searches a table: candidates of every method come from the profile split, and the search split
/// alone decides among them.
/// @param profile_rows  examples to measure heads and gradients on
/// @param search_rows   examples to choose on; a beginning of them should be like the whole
/// @param labels        [rows of data]; read where the objective or the loss is supervised
/// @throws invalid_argument for an empty split, methods that need gradients of an evaluator that
///         gives none, an option out of range, or a missing label
template <evaluator E>
search_outcome search_table(recorded_evaluator<E>& host, std::span<const index_t> profile_rows,
                            std::span<const index_t> search_rows, std::span<const index_t> labels,
                            const search_options& options, const phase_callback& phases = {}) {
  return impl::table_search<E>(host, profile_rows, search_rows, labels, options, phases).run();
}

/// The same for a host whose answers are kept for this search only.
template <evaluator E>
search_outcome search_table(E& host, std::span<const index_t> profile_rows,
                            std::span<const index_t> search_rows, std::span<const index_t> labels,
                            const search_options& options, const phase_callback& phases = {}) {
  recorded_evaluator<E> recorded(host);
  return search_table(recorded, profile_rows, search_rows, labels, options, phases);
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
