// SPDX-License-Identifier: Apache-2.0
// A race between gamma tables (layer: tuning): successive halving (Jamieson and Talwalkar, 2016) on
// common examples, guards for objectives without labels, and a choice that takes what the scores
// cannot tell apart as equal.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "zerotune/core/error.hpp"
#include "zerotune/tuning/candidates.hpp"
#include "zerotune/tuning/evaluator.hpp"
#include "zerotune/tuning/objective.hpp"

namespace zerotune {

/// How candidates are raced.
struct race_options {
  objective goal = objective::accuracy;
  index_t first_rows = 16;  ///< examples of the first round; 0: all of them, a single round
  index_t growth = 2;       ///< every round has this many times the examples of the one before
  double keep = 0.5;        ///< share of the candidates that goes on to the next round
  /// Candidates that are behind the best by less than this many standard errors of the paired
  /// difference count as equal to it: of these the untouched model is chosen, else the one with the
  /// best tie-breaker. 0: the best one is chosen.
  double margin = 0;
  /// For the unsupervised objectives: cap on choice_divergence from the untouched model, nats.
  double max_divergence = 0.5;
  /// For the unsupervised objectives: least label_spread, as a share of the untouched model's.
  double min_spread = 0.5;
};

/// How far a candidate came.
struct raced_candidate {
  index_t rows = 0;       ///< examples that it was judged on
  objective_score score;  ///< mean over them
  double divergence = 0;  ///< choice_divergence from the untouched model
  double spread = 0;      ///< label_spread
  bool admitted = true;   ///< by the guards
  double behind = 0;      ///< the best value minus its own; only of those judged on all examples
  double standard_error = 0;  ///< of `behind`
};

/// Who won.
struct race_outcome {
  std::vector<raced_candidate> candidates;           ///< as they were given
  std::vector<std::vector<example_result>> results;  ///< [candidates][rows of the candidate]
  std::size_t leader = 0;                            ///< the best score
  std::size_t chosen = 0;                            ///< the leader, or one within the margin
  std::vector<std::string> warnings;
};

inline namespace ZEROTUNE_ABI {

/// Mean and standard error of the paired difference of two lists of scores.
/// @pre of the same length, at least 1
struct paired_difference {
  double mean = 0;
  double standard_error = 0;
};
inline paired_difference difference_of(std::span<const objective_score> a,
                                       std::span<const objective_score> b) {
  const double rows = static_cast<double>(a.size());
  paired_difference result;
  for (std::size_t i = 0; i < a.size(); ++i) result.mean += (a[i].value - b[i].value) / rows;
  double squares = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double off = a[i].value - b[i].value - result.mean;
    squares += off * off;
  }
  if (a.size() > 1) result.standard_error = std::sqrt(squares / (rows - 1) / rows);
  return result;
}

namespace impl {

inline void check_race(const race_options& options, std::size_t candidates, std::size_t examples) {
  constexpr const char* name = "race";
  if (candidates == 0) fail(name, "candidates", "at least one", "none");
  if (examples == 0) fail(name, "examples", "at least one", "none");
  if (options.first_rows < 0)
    fail(name, "first_rows", "at least 0", std::to_string(options.first_rows));
  if (options.growth < 2) fail(name, "growth", "at least 2", std::to_string(options.growth));
  if (!(options.keep > 0 && options.keep <= 1))
    fail(name, "keep", "a value in (0, 1]", number(options.keep));
  if (!(options.margin >= 0) || !is_finite(options.margin))
    fail(name, "margin", "a finite value >= 0", number(options.margin));
}

/// The state of a race: which candidates are still in it, and what they answered so far.
template <evaluator E>
class racing {
 public:
  racing(E& host, std::span<const tuning_candidate> candidates, std::span<const index_t> examples,
         std::span<const index_t> labels, const race_options& options,
         const progress_callback& progress)
      : host_(host),
        candidates_(candidates),
        examples_(examples),
        labels_(labels),
        options_(options),
        progress_(progress) {
    check_race(options, candidates.size(), examples.size());
    out_.candidates.resize(candidates.size());
    out_.results.resize(candidates.size());
    scores_.resize(candidates.size());
    for (std::size_t i = 0; i < candidates.size(); ++i) running_.push_back(i);
    plan();
  }

  race_outcome run() {
    for (std::size_t i = 0; i < rounds_.size(); ++i) {
      extend(rounds_[i].rows);
      if (i + 1 < rounds_.size()) thin_out(rounds_[i + 1].candidates);
    }
    choose();
    warn();
    return std::move(out_);
  }

 private:
  struct stage {
    std::size_t rows;
    std::size_t candidates;
  };

  void plan() {
    const std::size_t all = examples_.size();
    std::size_t rows = options_.first_rows == 0
                           ? all
                           : std::min(all, static_cast<std::size_t>(options_.first_rows));
    std::size_t left = candidates_.size(), before = 0;
    for (;;) {
      rounds_.push_back({rows, left});
      total_ += static_cast<index_t>((rows - before) * left);
      if (rows == all) return;
      before = rows;
      rows = rows > all / static_cast<std::size_t>(options_.growth)
                 ? all
                 : rows * static_cast<std::size_t>(options_.growth);
      // The untouched model is always among them and takes no other's place.
      const double others = options_.keep * static_cast<double>(left - 1);
      left = 1 + static_cast<std::size_t>(std::ceil(others));
    }
  }

  // Every candidate that is left answers the examples up to `rows`.
  void extend(std::size_t rows) {
    const std::size_t before = out_.results.front().size();
    const std::span<const index_t> next = examples_.subspan(before, rows - before);
    std::vector<gamma_table> tables;
    for (const std::size_t i : running_) tables.push_back(candidates_[i].gamma);
    progress_callback part;
    if (progress_)
      part = [&](index_t done, index_t) { progress_(std::min(done_ + done, total_), total_); };
    auto answers = evaluate_tables(host_, tables, next, needed_for(options_.goal), part);
    done_ += static_cast<index_t>(tables.size() * next.size());
    for (std::size_t r = 0; r < running_.size(); ++r) {
      auto& results = out_.results[running_[r]];
      std::move(answers[r].begin(), answers[r].end(), std::back_inserter(results));
    }
    for (const std::size_t i : running_) judge(i);
  }

  void judge(std::size_t i) {
    const auto& results = out_.results[i];
    const auto seen = examples_.first(results.size());
    raced_candidate& candidate = out_.candidates[i];
    scores_[i] = score_examples(options_.goal, results, seen, labels_);
    candidate.rows = static_cast<index_t>(results.size());
    candidate.score = measure(options_.goal, results, seen, labels_);
    const auto untouched = std::span(out_.results.front()).first(results.size());
    candidate.divergence = choice_divergence(untouched, results);
    candidate.spread = label_spread(results);
    candidate.admitted = i == 0 || is_supervised(options_.goal) ||
                         (candidate.divergence <= options_.max_divergence &&
                          candidate.spread >= options_.min_spread * out_.candidates.front().spread);
  }

  bool ahead(std::size_t a, std::size_t b) const {
    const raced_candidate &first = out_.candidates[a], &second = out_.candidates[b];
    if (first.admitted != second.admitted) return first.admitted;
    return better(first.score, second.score);
  }

  void thin_out(std::size_t count) {
    std::vector<std::size_t> order(running_.begin() + 1, running_.end());
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return ahead(a, b); });
    order.resize(std::min(order.size(), count - 1));
    order.push_back(0);
    std::sort(order.begin(), order.end());
    running_ = std::move(order);
  }

  void choose() {
    for (const std::size_t i : running_)
      if (ahead(i, out_.leader)) out_.leader = i;
    out_.chosen = out_.leader;
    for (const std::size_t i : running_) {
      raced_candidate& candidate = out_.candidates[i];
      const paired_difference gap = difference_of(scores_[out_.leader], scores_[i]);
      candidate.behind = gap.mean;
      candidate.standard_error = gap.standard_error;
      // Of candidates that answer every row alike gap and error are both 0.
      const bool close = candidate.admitted && options_.margin > 0 &&
                         gap.mean <= options_.margin * gap.standard_error;
      if (close && preferred(i, out_.chosen)) out_.chosen = i;
    }
  }

  // Between candidates that the score cannot tell apart: the untouched model, which can do no harm,
  // then the better tie-breaker, which moves by less than whole answers.
  bool preferred(std::size_t a, std::size_t b) const {
    if (a == 0 || b == 0) return a == 0;
    return out_.candidates[a].score.tie > out_.candidates[b].score.tie;
  }

  void warn() {
    std::size_t refused = 0;
    for (const raced_candidate& candidate : out_.candidates) refused += !candidate.admitted;
    if (refused > 0)
      out_.warnings.push_back(std::to_string(refused) +
                              " candidate(s) moved the choices further from the untouched model "
                              "than the cap allows, or answered nearly always the same");
    const tuning_candidate& chosen = candidates_[out_.chosen];
    if (is_supervised(options_.goal) || !chosen.factor) return;
    // gamma = 1, the untouched model, is a point of every grid.
    float least = 1.0f, greatest = 1.0f;
    for (const tuning_candidate& other : candidates_)
      if (other.factor && (other.method == chosen.method || out_.chosen == 0)) {
        least = std::min(least, *other.factor);
        greatest = std::max(greatest, *other.factor);
      }
    if (least < greatest && (*chosen.factor == least || *chosen.factor == greatest))
      out_.warnings.push_back("the entropy is least at the edge of the grid (gamma " +
                              shown(static_cast<double>(*chosen.factor)) +
                              "): its minimum may lie beyond, and low entropy is not accuracy");
  }

  E& host_;
  std::span<const tuning_candidate> candidates_;
  std::span<const index_t> examples_, labels_;
  race_options options_;
  const progress_callback& progress_;
  std::vector<stage> rounds_;
  std::vector<std::size_t> running_;  // ascending; 0 is always among them
  std::vector<std::vector<objective_score>> scores_;
  index_t done_ = 0, total_ = 0;
  race_outcome out_;
};

}  // namespace impl

/// Races candidates on common examples: all of them answer the first few, the better part of them
/// some more, and so on; what was answered is not asked again. Equal scores: the earlier candidate.
/// @param candidates  the first is the untouched model, which is never dropped
/// @param examples    a round uses a beginning of them, which should be like the whole
/// @param labels      [rows of data]; read for the supervised objectives alone
/// @throws invalid_argument if there are no candidates or examples, an option is out of range, or
///         as score_examples does
template <evaluator E>
race_outcome race(E& host, std::span<const tuning_candidate> candidates,
                  std::span<const index_t> examples, std::span<const index_t> labels,
                  const race_options& options = {}, const progress_callback& progress = {}) {
  return impl::racing<E>(host, candidates, examples, labels, options, progress).run();
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
