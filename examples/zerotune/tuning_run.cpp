// SPDX-License-Identifier: Apache-2.0
#include "tuning_run.hpp"

#include <chrono>
#include <utility>

#include "failure.hpp"
#include "progress.hpp"
#include "table.hpp"
#include "tuning_options.hpp"
#include "zerotune/tuning/statistics.hpp"

namespace zerotune_cli {

namespace {

using zerotune::comparison;
using zerotune::example_result;
using results = std::vector<example_result>;

constexpr zerotune::quantities everything{.loglik = true, .generated = true, .entropy = true};
constexpr zerotune::quantities both_scores{.loglik = true, .generated = true, .entropy = false};

comparison compare(const results& untouched, const results& tuned,
                   const std::vector<index_t>& examples, const std::vector<index_t>& labels,
                   std::uint64_t seed) {
  comparison c;
  c.untouched = report_scores(untouched, examples, labels);
  c.tuned = report_scores(tuned, examples, labels);
  const auto score = [&](index_t example_result::*answer, double& p,
                         std::optional<zerotune::interval>& difference) {
    index_t only_untouched = 0, only_tuned = 0;
    std::vector<double> before, after;
    for (std::size_t i = 0; i < examples.size(); ++i) {
      const index_t label = labels[static_cast<std::size_t>(examples[i])];
      const bool right_before = untouched[i].*answer == label;
      const bool right_after = tuned[i].*answer == label;
      only_untouched += right_before && !right_after;
      only_tuned += !right_before && right_after;
      before.push_back(right_before);
      after.push_back(right_after);
    }
    p = zerotune::mcnemar_exact(only_untouched, only_tuned);
    if (!examples.empty()) difference = zerotune::paired_bootstrap(before, after, {.seed = seed});
  };
  score(&example_result::predicted, c.mcnemar_likelihood, c.difference_likelihood);
  score(&example_result::generated, c.mcnemar_generated, c.difference_generated);
  return c;
}

std::vector<std::string> ids_of(const data_set& data, const std::vector<index_t>& rows) {
  std::vector<std::string> ids;
  for (const index_t row : rows) ids.push_back(data.rows[static_cast<std::size_t>(row)].id);
  return ids;
}

// The tuned and the untouched model on some rows, both scores.
results evaluate_all(host_evaluator& host, const zerotune::gamma_table& gamma,
                     const std::vector<index_t>& examples, const char* label) {
  progress bar(label);
  return host.evaluate(gamma, examples, both_scores, bar.callback());
}

class tuning {
 public:
  tuning(host_evaluator& host, const data_set& data, const tuning_plan& plan)
      : host_(host), data_(data), plan_(plan), labels_(data.labels()) {}

  tuning_outcome run() {
    labelled_ = !data_.is_unlabelled();
    if (plan_.probe.goal == zerotune::objective::accuracy) data_.require_labels("tune");
    try {
      out_.splits = zerotune::make_splits(labels_, plan_.sizes, plan_.seed);
    } catch (const zerotune::invalid_argument& error) {
      throw usage_error(data_.name + ": " + error.what());
    }
    const auto start = std::chrono::steady_clock::now();
    select();
    search();
    out_.result.cost = {
        .forward_rows = out_.profile.forward_rows + out_.search.forward_rows,
        .backward_rows = 0,
        .seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()};
    check_placebo();
    test();
    record();
    return std::move(out_);
  }

 private:
  index_t unit_total() const {
    return zerotune::unit_count(plan_.probe.unit, host_.num_layers(), host_.num_heads());
  }
  zerotune::gamma_table table_of(const std::vector<index_t>& units, float gamma) const {
    return zerotune::unit_table(plan_.probe.unit, host_.num_layers(), host_.num_heads(), units,
                                gamma);
  }

  void select() {
    if (!plan_.selects_heads) {
      for (index_t unit = 0; unit < unit_total(); ++unit) out_.selected.push_back(unit);
      return;
    }
    progress bar("profiling heads");
    out_.profile =
        zerotune::profile_heads(host_, out_.splits.profile, labels_, plan_.probe, bar.callback());
    out_.kind = zerotune::dominant_kind(out_.profile);
    out_.selected = zerotune::select_units(out_.profile, out_.kind, plan_.share);
    if (out_.selected.empty())
      out_.result.warnings.push_back(
          "no head had any effect on the profile split: nothing was selected");
  }

  void search() {
    progress bar("searching gamma");
    out_.search = zerotune::search_gamma(host_, plan_.probe.unit, out_.selected, out_.splits.search,
                                         labels_, plan_.search, bar.callback());
    out_.result.gamma = table_of(out_.selected, out_.search.gamma());
    for (const std::string& warning : out_.search.warnings) out_.result.warnings.push_back(warning);
  }

  // The model without a modifier against the whole machinery at gamma = 1.
  void check_placebo() {
    const std::vector<index_t>& examples =
        out_.splits.profile.empty() ? out_.splits.search : out_.splits.profile;
    progress bar("placebo");
    const index_t rows = static_cast<index_t>(examples.size());
    const results plain = host_.evaluate_untouched(
        examples, everything, [&](index_t done, index_t) { bar.update(done, 2 * rows); });
    const results placebo =
        host_.evaluate(table_of(out_.selected, 1.0f), examples, everything,
                       [&](index_t done, index_t) { bar.update(rows + done, 2 * rows); });
    out_.result.placebo_equal = plain == placebo;
    if (plain != placebo)
      out_.result.warnings.push_back(
          "the placebo failed: gamma = 1 changed results, so nothing here can be relied on");
  }

  void test() {
    if (!labelled_) return;
    const std::vector<index_t>& rows = out_.splits.search;
    const zerotune::gamma_table ones(host_.num_layers(), host_.num_heads());
    const bool changes = !out_.result.gamma.is_identity();
    if (plan_.search.goal == zerotune::objective::accuracy) {
      std::size_t one = 0;
      while (out_.search.candidates[one].gamma != 1.0f) ++one;
      out_.result.search = compare(out_.search.results[one], out_.search.results[out_.search.best],
                                   rows, labels_, plan_.seed);
    } else {
      const results before = evaluate_all(host_, ones, rows, "search split, untouched");
      out_.result.search = compare(
          before,
          changes ? evaluate_all(host_, out_.result.gamma, rows, "search split, tuned") : before,
          rows, labels_, plan_.seed);
    }
    const std::vector<index_t>& test = out_.splits.test;
    if (test.empty()) return;
    const results before = evaluate_all(host_, ones, test, "test split, untouched");
    const results after =
        changes ? evaluate_all(host_, out_.result.gamma, test, "test split, tuned") : before;
    out_.result.test = compare(before, after, test, labels_, plan_.seed);
    for (index_t control = 0; control < plan_.controls; ++control) {
      const std::uint64_t seed = plan_.seed + 1 + static_cast<std::uint64_t>(control);
      const std::vector<index_t> units =
          zerotune::random_units(plan_.probe.unit, host_.num_layers(), host_.num_heads(),
                                 static_cast<index_t>(out_.selected.size()), seed);
      const results answers = evaluate_all(host_, table_of(units, out_.search.gamma()), test,
                                           "test split, random heads");
      out_.result.controls.push_back({seed, units, report_scores(answers, test, labels_)});
    }
  }

  void record() {
    zerotune::tuning_profile& p = out_.result;
    p.seed = plan_.seed;
    p.method = plan_.selects_heads ? "paper" : "uniform";
    p.splits = {ids_of(data_, out_.splits.profile), ids_of(data_, out_.splits.search),
                ids_of(data_, out_.splits.test)};
    p.objective = name_of(objective_names(), plan_.search.goal);
    p.granularity = name_of(granularity_names(), plan_.probe.unit);
    if (plan_.selects_heads) {
      p.kind = name_of(out_.kind);
      p.probe_gamma = static_cast<double>(plan_.probe.gamma);
      p.share = plan_.share;
      for (index_t unit = 0; unit < unit_total(); ++unit) {
        const zerotune::objective_score& effect =
            out_.profile.effect[static_cast<std::size_t>(unit)];
        const bool selected =
            std::find(out_.selected.begin(), out_.selected.end(), unit) != out_.selected.end();
        p.units.push_back({unit, effect.value, effect.tie, selected});
      }
    }
    for (std::size_t i = 0; i < out_.search.candidates.size(); ++i) {
      const zerotune::search_candidate& candidate = out_.search.candidates[i];
      zerotune::grid_point point{static_cast<double>(candidate.gamma),
                                 candidate.score.value,
                                 candidate.divergence,
                                 candidate.admitted,
                                 {}};
      if (plan_.search.goal == zerotune::objective::accuracy)
        point.scores = report_scores(out_.search.results[i], out_.splits.search, labels_);
      p.grid.push_back(std::move(point));
    }
  }

  host_evaluator& host_;
  const data_set& data_;
  const tuning_plan& plan_;
  std::vector<index_t> labels_;
  bool labelled_ = false;
  tuning_outcome out_;
};

}  // namespace

tuning_outcome run_tuning(host_evaluator& host, const data_set& data, const tuning_plan& plan) {
  return tuning(host, data, plan).run();
}

}  // namespace zerotune_cli
