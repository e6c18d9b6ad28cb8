// SPDX-License-Identifier: Apache-2.0
#include "tuning_run.hpp"

#include <algorithm>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>

#include "failure.hpp"
#include "progress.hpp"
#include "table.hpp"
#include "tuning_options.hpp"
#include "tuning_settings.hpp"
#include "zerotune/tuning/loss.hpp"
#include "zerotune/tuning/statistics.hpp"

namespace zerotune_cli {

namespace {

using zerotune::comparison;
using zerotune::example_result;
using results = std::vector<example_result>;
using recorded_host = zerotune::recorded_evaluator<host_evaluator>;

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

// One bar after another: a phase ends when the next one begins.
class phase_bars {
 public:
  zerotune::phase_callback callback() {
    return [this](const char* phase) {
      bar_ = std::make_unique<progress>(phase);
      return bar_->callback();
    };
  }

 private:
  std::unique_ptr<progress> bar_;
};

zerotune::answer_columns columns_of(const results& answers) {
  zerotune::answer_columns columns;
  for (const example_result& answer : answers) {
    columns.predicted.push_back(answer.predicted);
    columns.generated.push_back(answer.generated);
  }
  return columns;
}

// Empty unless all rows share their choices.
std::vector<std::string> classes_of(const data_set& data) {
  const std::vector<std::string>& choices = data.rows.front().choices;
  for (const data_row& row : data.rows)
    if (row.choices != choices) return {};
  return choices;
}

class tuning {
 public:
  tuning(host_evaluator& host, const data_set& data, const tuning_plan& plan)
      : plain_host_(host),
        host_(host, plan.journal ? plan.journal->sink() : zerotune::record_sink{}),
        data_(data),
        plan_(plan),
        labels_(data.labels()) {}

  tuning_outcome run() {
    labelled_ = !data_.is_unlabelled();
    if (reads_labels()) data_.require_labels("tune");
    try {
      out_.splits = zerotune::make_splits(labels_, plan_.sizes, plan_.seed);
    } catch (const zerotune::invalid_argument& error) {
      throw usage_error(data_.name + ": " + error.what());
    }
    restore();
    {
      phase_bars bars;
      out_.search = zerotune::search_table(host_, out_.splits.profile, out_.splits.search, labels_,
                                           plan_.search, bars.callback());
    }
    out_.result.cost = host_.cost();
    out_.result.gamma = out_.search.chosen().gamma;
    out_.result.warnings = out_.search.warnings;
    check_placebo();
    test();
    record();
    return std::move(out_);
  }

 private:
  bool uses_gradient() const {
    const zerotune::search_methods& methods = plan_.search.methods;
    return methods.gradient_select || methods.descent ||
           (methods.paper && plan_.search.profile == zerotune::profiling::gradient);
  }
  bool reads_labels() const {
    return zerotune::is_supervised(plan_.search.race.goal) ||
           (plan_.search.methods.paper && zerotune::is_supervised(plan_.search.probe.goal)) ||
           (uses_gradient() && zerotune::is_supervised(plan_.search.descent.loss));
  }

  void restore() {
    if (!plan_.journal) return;
    try {
      for (const auto& record : plan_.journal->contents().evaluations) host_.restore(record);
      for (const auto& record : plan_.journal->contents().gradients) host_.restore(record);
    } catch (const zerotune::invalid_argument& error) {
      throw usage_error(std::string("--journal: ") + error.what());
    }
  }

  results evaluate(const zerotune::gamma_table& gamma, const std::vector<index_t>& examples,
                   const char* label) {
    progress bar(label);
    return host_.evaluate(gamma, examples, both_scores, bar.callback());
  }

  // The model without a modifier against the whole machinery at gamma = 1.
  void check_placebo() {
    const std::vector<index_t>& examples =
        out_.splits.profile.empty() ? out_.splits.search : out_.splits.profile;
    progress bar("placebo");
    const index_t rows = static_cast<index_t>(examples.size());
    const results plain = plain_host_.evaluate_untouched(
        examples, everything, [&](index_t done, index_t) { bar.update(done, 2 * rows); });
    const results placebo =
        plain_host_.evaluate(ones(), examples, everything,
                             [&](index_t done, index_t) { bar.update(rows + done, 2 * rows); });
    out_.result.placebo_equal = plain == placebo;
    if (plain != placebo)
      out_.result.warnings.push_back(
          "the placebo failed: gamma = 1 changed results, so nothing here can be relied on");
  }

  void test() {
    if (!labelled_) return;
    out_.result.search =
        compare_on(out_.splits.search, "search split, untouched", "search split, tuned").first;
    const std::vector<index_t>& test = out_.splits.test;
    if (!test.empty())
      std::tie(out_.result.test, out_.result.outcomes) =
          compare_on(test, "test split, untouched", "test split, tuned");
    const comparison& seen = out_.result.test ? *out_.result.test : *out_.result.search;
    if (seen.tuned.invalid > 0.5)
      out_.result.warnings.push_back(
          "most answers of the tuned model (" + format_number("%.0f", 100 * seen.tuned.invalid) +
          "%) are none of the choices: the prompt or the choices may not suit the model");
    if (!test.empty()) control(test);
  }

  std::pair<comparison, zerotune::test_outcomes> compare_on(const std::vector<index_t>& rows,
                                                            const char* before, const char* after) {
    const results untouched = evaluate(ones(), rows, before);
    const results tuned = evaluate(out_.result.gamma, rows, after);
    zerotune::test_outcomes outcomes;
    for (const index_t row : rows) outcomes.label.push_back(labels_[static_cast<std::size_t>(row)]);
    outcomes.untouched = columns_of(untouched);
    outcomes.tuned = columns_of(tuned);
    outcomes.classes = classes_of(data_);
    return {compare(untouched, tuned, rows, labels_, plan_.seed), std::move(outcomes)};
  }

  // The same gammas on random heads: on random units where the paper's procedure chose units.
  void control(const std::vector<index_t>& test) {
    const zerotune::tuning_candidate& chosen = out_.search.chosen();
    if (plan_.controls > 0 && (chosen.method == "uniform" || chosen.gamma.is_identity()))
      out_.result.warnings.push_back("no controls: all heads have the same gamma");
    else
      for (index_t i = 0; i < plan_.controls; ++i)
        control(test, plan_.seed + 1 + static_cast<std::uint64_t>(i));
  }
  void control(const std::vector<index_t>& test, std::uint64_t seed) {
    const zerotune::tuning_candidate& chosen = out_.search.chosen();
    zerotune::control_report control{seed, {}, {}};
    zerotune::gamma_table table;
    if (chosen.method == "paper") {
      const zerotune::granularity unit = plan_.search.probe.unit;
      control.units =
          zerotune::random_units(unit, host_.num_layers(), host_.num_heads(),
                                 static_cast<index_t>(out_.search.selected.size()), seed);
      table = zerotune::unit_table(unit, host_.num_layers(), host_.num_heads(), control.units,
                                   *chosen.factor);
    } else {
      table = zerotune::shuffled_heads(chosen.gamma, seed);
    }
    control.scores =
        report_scores(evaluate(table, test, "test split, random heads"), test, labels_);
    out_.result.controls.push_back(std::move(control));
  }

  void record() {
    zerotune::tuning_profile& p = out_.result;
    p.seed = plan_.seed;
    p.method = plan_.method;
    p.chosen_method = out_.search.chosen().method;
    p.chosen_detail = out_.search.chosen().detail;
    p.splits = {ids_of(data_, out_.splits.profile), ids_of(data_, out_.splits.search),
                ids_of(data_, out_.splits.test)};
    p.objective = name_of(objective_names(), plan_.search.race.goal);
    if (out_.search.profile) record_paper();
    if (out_.search.gradient) {
      p.loss = plan_.search.descent.loss;
      p.gradient = {out_.search.gradient->mean, out_.search.gradient->standard_error};
    }
    if (out_.search.descent)
      for (const zerotune::descent_step& step : out_.search.descent->steps)
        p.descent.push_back({step.step, step.loss, step.gradient_norm});
    for (std::size_t i = 0; i < out_.search.candidates.size(); ++i) record_candidate(i);
    p.settings = settings_of(plan_, data_);
  }

  void record_paper() {
    zerotune::tuning_profile& p = out_.result;
    const zerotune::head_profile& profile = *out_.search.profile;
    p.granularity = name_of(granularity_names(), profile.unit);
    p.kind = name_of(out_.search.kind);
    p.probe_gamma = static_cast<double>(profile.probe_gamma);
    p.share = plan_.search.share;
    const std::vector<index_t>& selected = out_.search.selected;
    for (index_t unit = 0; unit < static_cast<index_t>(profile.effect.size()); ++unit) {
      const zerotune::objective_score& effect = profile.effect[static_cast<std::size_t>(unit)];
      const bool chosen = std::find(selected.begin(), selected.end(), unit) != selected.end();
      p.units.push_back({unit, effect.value, effect.tie, chosen});
    }
  }

  void record_candidate(std::size_t i) {
    const zerotune::tuning_candidate& candidate = out_.search.candidates[i];
    const zerotune::raced_candidate& raced = out_.search.race.candidates[i];
    zerotune::candidate_report report;
    report.method = candidate.method;
    report.detail = candidate.detail;
    if (candidate.factor) report.gamma = static_cast<double>(*candidate.factor);
    report.strength = zerotune::strength_of(candidate.gamma);
    report.rows = raced.rows;
    report.objective = raced.score.value;
    report.tie = raced.score.tie;
    report.divergence = raced.divergence;
    report.spread = raced.spread;
    report.admitted = raced.admitted;
    if (zerotune::is_supervised(plan_.search.race.goal)) {
      const std::vector<index_t> seen(out_.splits.search.begin(),
                                      out_.splits.search.begin() + raced.rows);
      report.scores = report_scores(out_.search.race.results[i], seen, labels_);
    }
    out_.result.candidates.push_back(std::move(report));
  }

  zerotune::gamma_table ones() const { return {host_.num_layers(), host_.num_heads()}; }

  host_evaluator& plain_host_;
  recorded_host host_;
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
