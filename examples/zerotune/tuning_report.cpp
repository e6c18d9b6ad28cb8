// SPDX-License-Identifier: Apache-2.0
// format_outcome: what tune prints.
#include <cmath>

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

std::string format_comparison(const zerotune::comparison& c) {
  return format_table(
      {{"score", "untouched [95%]", "tuned [95%]", "difference [95%]", "McNemar p"},
       score_row("likelihood", c.untouched.likelihood, c.untouched.likelihood_interval,
                 c.tuned.likelihood, c.tuned.likelihood_interval, c.difference_likelihood,
                 c.mcnemar_likelihood),
       score_row("generated", c.untouched.generated, c.untouched.generated_interval,
                 c.tuned.generated, c.tuned.generated_interval, c.difference_generated,
                 c.mcnemar_generated),
       {"invalid answers", format_number("%.3f", c.untouched.invalid),
        format_number("%.3f", c.tuned.invalid),
        format_number("%+.3f", c.tuned.invalid - c.untouched.invalid), ""}});
}

std::string format_grid(const zerotune::tuning_profile& profile, double chosen) {
  std::vector<std::vector<std::string>> rows{
      {"gamma", profile.objective, "likelihood", "generated", "invalid", ""}};
  for (const zerotune::grid_point& point : profile.grid) {
    std::vector<std::string> row{format_number("%g", point.gamma),
                                 format_number("%.4f", std::fabs(point.objective))};
    for (const auto member : {&zerotune::score_report::likelihood,
                              &zerotune::score_report::generated, &zerotune::score_report::invalid})
      row.push_back(point.scores ? format_number("%.3f", *point.scores.*member) : "-");
    row.push_back(point.gamma == chosen ? "chosen"
                  : point.admitted      ? ""
                                        : "beyond the cap on divergence");
    rows.push_back(std::move(row));
  }
  return format_table(rows);
}

}  // namespace

std::string format_outcome(const tuning_outcome& outcome) {
  const zerotune::tuning_profile& result = outcome.result;
  std::string text;
  if (!outcome.profile.effect.empty()) {
    text += "Head profile (" + std::to_string(outcome.splits.profile.size()) +
            " rows, probe gamma " + format_number("%g", result.probe_gamma) + ")\n";
    const bool long_list = outcome.profile.effect.size() > 64;
    text += long_list ? std::to_string(outcome.profile.effect.size()) +
                            " units; the profile file lists their effects\n"
                      : format_profile(outcome.profile, outcome.selected);
    text += std::string("dominant kind: ") + name_of(outcome.kind) + "-effective, " +
            std::to_string(outcome.selected.size()) + " selected\n\n";
  }
  text += "Search (" + std::to_string(outcome.splits.search.size()) + " rows)\n" +
          format_grid(result, static_cast<double>(outcome.search.gamma()));
  if (outcome.search.gamma() == 1.0f)
    text += "Nothing was better than the untouched model: the profile changes nothing.\n";
  text += "\n";
  if (result.test) {
    const zerotune::comparison& c = *result.test;
    text += "Test (" + std::to_string(c.tuned.rows) + " rows, read once)\n" + format_comparison(c);
    text += verdict("likelihood", c.untouched.likelihood, c.tuned.likelihood, c.mcnemar_likelihood);
    text += verdict("generated", c.untouched.generated, c.tuned.generated, c.mcnemar_generated);
  } else {
    text += "No test: the rows have no labels, or --test-rows is 0.\n";
  }
  if (!result.controls.empty()) {
    std::vector<std::vector<std::string>> rows{
        {"random heads, same gamma", "likelihood", "generated", "invalid"}};
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
  text += "Cost: " + std::to_string(result.cost->forward_rows) + " rows evaluated in " +
          format_seconds(result.cost->seconds) + "\n";
  for (const std::string& warning : result.warnings) text += "Warning: " + warning + "\n";
  return text;
}

}  // namespace zerotune_cli
