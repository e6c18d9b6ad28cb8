// SPDX-License-Identifier: Apache-2.0
// format_outcome: what tune prints.
#include <algorithm>
#include <cmath>
#include <set>

#include "progress.hpp"
#include "table.hpp"
#include "tuning_options.hpp"
#include "tuning_run.hpp"

namespace zerotune_cli {

namespace {

constexpr double significance = 0.05;

std::string verdict(const char* score, double before, double after, double p) {
  const std::string text = std::string("The ") + score + " score ";
  if (p >= significance)
    return text + "did not change significantly (McNemar p = " + format_number("%.3g", p) + ").\n";
  return text + (after > before ? "rose" : "FELL") +
         " significantly (McNemar p = " + format_number("%.3g", p) + ").\n";
}

std::vector<std::string> score_row(const char* name, double before,
                                   const std::optional<zerotune::interval>& before_bounds,
                                   double after,
                                   const std::optional<zerotune::interval>& after_bounds,
                                   const std::optional<zerotune::interval>& difference, double p) {
  std::string change = format_number("%+.3f", after - before);
  if (difference)
    change += " [" + format_number("%+.3f", difference->low) + ", " +
              format_number("%+.3f", difference->high) + "]";
  return {name, format_share(before, before_bounds), format_share(after, after_bounds), change,
          format_number("%.3g", p)};
}

// Both splits side by side: a gain on the search split was chosen for its size, and only the test
// split says how much of it is real.
std::string format_comparisons(const zerotune::comparison& search,
                               const std::optional<zerotune::comparison>& test) {
  std::vector<std::vector<std::string>> rows{
      {"score", "untouched [95%]", "tuned [95%]", "difference [95%]", "McNemar p"}};
  const auto add = [&](const char* split, const zerotune::comparison& c) {
    const std::string of = std::string(" (") + split + ")";
    rows.push_back(score_row(("likelihood" + of).c_str(), c.untouched.likelihood,
                             c.untouched.likelihood_interval, c.tuned.likelihood,
                             c.tuned.likelihood_interval, c.difference_likelihood,
                             c.mcnemar_likelihood));
    rows.push_back(score_row(("generated" + of).c_str(), c.untouched.generated,
                             c.untouched.generated_interval, c.tuned.generated,
                             c.tuned.generated_interval, c.difference_generated,
                             c.mcnemar_generated));
    rows.push_back({"invalid answers" + of, format_number("%.3f", c.untouched.invalid),
                    format_number("%.3f", c.tuned.invalid),
                    format_number("%+.3f", c.tuned.invalid - c.untouched.invalid), ""});
  };
  add("search", search);
  if (test) add("test", *test);
  return format_table(rows);
}

// The candidates that were judged on all rows, best first, and the best of each method that is not
// among them.
std::string format_candidates(const tuning_outcome& outcome) {
  const auto& race = outcome.search.race;
  const zerotune::tuning_profile& result = outcome.result;
  std::vector<std::size_t> order(race.candidates.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    if (race.candidates[a].rows != race.candidates[b].rows)
      return race.candidates[a].rows > race.candidates[b].rows;
    return zerotune::better(race.candidates[a].score, race.candidates[b].score);
  });
  std::vector<std::vector<std::string>> rows{{"candidate", "strength", "rows", result.objective,
                                              "likelihood", "generated", "invalid", ""}};
  std::set<std::string> shown;
  for (const std::size_t i : order) {
    const zerotune::candidate_report& candidate = result.candidates[i];
    const bool first = shown.insert(candidate.method).second;
    if (!first && race.candidates[i].rows < race.candidates.front().rows) continue;
    std::vector<std::string> row{
        candidate.method + ", " + candidate.detail, format_number("%.2f", candidate.strength),
        std::to_string(candidate.rows), format_number("%.4f", std::fabs(candidate.objective))};
    for (const auto member : {&zerotune::score_report::likelihood,
                              &zerotune::score_report::generated, &zerotune::score_report::invalid})
      row.push_back(candidate.scores ? format_number("%.3f", *candidate.scores.*member) : "-");
    row.push_back(i == race.chosen      ? "chosen"
                  : !candidate.admitted ? "refused"
                  : i == race.leader    ? "best score"
                                        : "");
    rows.push_back(std::move(row));
  }
  return format_table(rows);
}

std::string format_gradient(const zerotune::gradient_profile& gradient) {
  index_t up = 0, down = 0;
  for (std::size_t unit = 0; unit < gradient.mean.size(); ++unit)
    if (std::fabs(gradient.mean[unit]) > 2 * gradient.standard_error[unit])
      ++(gradient.mean[unit] < 0 ? up : down);
  return "Gradient of " + std::to_string(gradient.mean.size()) + " heads (" +
         std::to_string(gradient.rows) + " rows): " + std::to_string(up) + " up-effective and " +
         std::to_string(down) + " down-effective by more than two standard errors\n";
}

std::string format_paper(const tuning_outcome& outcome) {
  const zerotune::head_profile& profile = *outcome.search.profile;
  std::string text;
  if (profile.forward_rows > 0) {
    text += "Head profile (" + std::to_string(outcome.splits.profile.size()) +
            " rows, probe gamma " + format_number("%g", outcome.result.probe_gamma) + ")\n";
    const bool long_list = profile.effect.size() > 64;
    text += long_list ? std::to_string(profile.effect.size()) +
                            " units; the profile file lists their effects\n"
                      : format_profile(profile, outcome.search.selected);
  }
  return text + "The paper's procedure: " + name_of(outcome.search.kind) + "-effective, " +
         std::to_string(outcome.search.selected.size()) + " of " +
         std::to_string(profile.effect.size()) + " units selected\n";
}

std::string format_descent(const zerotune::descent_outcome& descent) {
  return "Descent: " + std::to_string(descent.steps.size()) + " steps, loss " +
         format_number("%.3f", descent.steps.front().loss) + " to " +
         format_number("%.3f", descent.steps.back().loss) +
         (descent.stopped_early ? ", ended as the search split got no better\n" : "\n");
}

}  // namespace

std::string format_outcome(const tuning_outcome& outcome) {
  const zerotune::tuning_profile& result = outcome.result;
  const zerotune::search_outcome& search = outcome.search;
  std::string text;
  if (search.gradient) text += format_gradient(*search.gradient);
  if (search.profile) text += format_paper(outcome);
  if (search.descent) text += format_descent(*search.descent);
  text += std::string(text.empty() ? "" : "\n") + "Search (" +
          std::to_string(outcome.splits.search.size()) + " rows, " +
          std::to_string(search.candidates.size()) + " candidates)\n" + format_candidates(outcome);
  if (result.gamma.is_identity())
    text += "Nothing was better than the untouched model: the profile changes nothing.\n";
  text += "\n";
  if (result.search) {
    text +=
        "Before and after. The search split chose the table, so its gain is flattered; the test "
        "split was read once.\n" +
        format_comparisons(*result.search, result.test);
  }
  if (result.test) {
    const zerotune::comparison& c = *result.test;
    text += verdict("likelihood", c.untouched.likelihood, c.tuned.likelihood, c.mcnemar_likelihood);
    text += verdict("generated", c.untouched.generated, c.tuned.generated, c.mcnemar_generated);
  } else {
    text += "No test: the rows have no labels, or --test-rows is 0.\n";
  }
  if (!result.controls.empty()) {
    std::vector<std::vector<std::string>> rows{
        {"random heads, same gammas", "likelihood", "generated", "invalid"}};
    for (const zerotune::control_report& control : result.controls)
      rows.push_back({"seed " + std::to_string(control.seed),
                      format_number("%.3f", control.scores.likelihood),
                      format_number("%.3f", control.scores.generated),
                      format_number("%.3f", control.scores.invalid)});
    text += "\n" + format_table(rows);
  }
  text += "\nPlacebo (gamma = 1 through the whole machinery): ";
  text += result.placebo_equal.value_or(false) ? "bitwise equal to the untouched model\n"
                                               : "DIFFERENT from the untouched model\n";
  text += "Cost of the search: " + std::to_string(result.cost->forward_rows) + " rows forward, " +
          std::to_string(result.cost->backward_rows) + " backward, " +
          format_seconds(result.cost->seconds) + "\n";
  for (const std::string& warning : result.warnings) text += "Warning: " + warning + "\n";
  return text;
}

}  // namespace zerotune_cli
