// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "progress.hpp"
#include "report_html.hpp"
#include "report_sections.hpp"
#include "table.hpp"

namespace zerotune_cli {

namespace {

using table = std::vector<std::vector<std::string>>;
using zerotune::comparison;
using zerotune::score_report;
using zerotune::tuning_profile;

constexpr double significance = 0.05;

std::string verdict(const char* score, double before, double after, double p) {
  std::string text = std::string("By ") + score + ": " + format_number("%.3f", before) + " to " +
                     format_number("%.3f", after) + " on the test split, ";
  const bool significant = p < significance;
  text += significant ? (after > before ? "a significant gain" : "a significant LOSS")
                      : "not significant";
  text += " (McNemar p = " + format_number("%.3g", p) + ").";
  return paragraph(text, !significant ? "" : after > before ? "good" : "bad");
}

std::vector<std::string> score_line(const std::string& name, const char* split,
                                    const score_report& before, const score_report& after,
                                    double score_report::*share,
                                    std::optional<zerotune::interval> score_report::*bounds,
                                    const std::optional<zerotune::interval>& difference,
                                    const std::string& p) {
  std::string change = format_number("%+.3f", after.*share - before.*share);
  if (difference)
    change += " [" + format_number("%+.3f", difference->low) + ", " +
              format_number("%+.3f", difference->high) + "]";
  const auto shown = [&](const score_report& report) {
    return format_share(report.*share, bounds ? report.*bounds : std::nullopt);
  };
  return {name, split, std::to_string(after.rows), shown(before), shown(after), change, p};
}

void add_comparison(table& rows, const char* split, const comparison& c) {
  rows.push_back(score_line("likelihood", split, c.untouched, c.tuned, &score_report::likelihood,
                            &score_report::likelihood_interval, c.difference_likelihood,
                            format_number("%.3g", c.mcnemar_likelihood)));
  rows.push_back(score_line("generated", split, c.untouched, c.tuned, &score_report::generated,
                            &score_report::generated_interval, c.difference_generated,
                            format_number("%.3g", c.mcnemar_generated)));
  rows.push_back(score_line("invalid answers", split, c.untouched, c.tuned, &score_report::invalid,
                            nullptr, std::nullopt, ""));
}

}  // namespace

std::string summary_section(const report_input& input) {
  const tuning_profile& p = input.profile;
  std::string html;
  if (p.test) {
    html += verdict("likelihood", p.test->untouched.likelihood, p.test->tuned.likelihood,
                    p.test->mcnemar_likelihood);
    html += verdict("generated answers", p.test->untouched.generated, p.test->tuned.generated,
                    p.test->mcnemar_generated);
  } else {
    html +=
        paragraph("The profile holds no test: nothing is known of rows that were not looked at.");
  }
  if (p.gamma.is_identity())
    html += paragraph("Every gamma is 1: the profile changes nothing.", "");
  if (p.placebo_equal)
    html += *p.placebo_equal
                ? paragraph("Placebo: gamma = 1 through the whole machinery changed no bit.")
                : paragraph(
                      "Placebo FAILED: gamma = 1 changed results, so nothing here can be "
                      "relied on.",
                      "bad");
  for (const std::string& warning : p.warnings) html += paragraph("Warning: " + warning, "bad");
  return html;
}

std::string before_after_section(const report_input& input) {
  const tuning_profile& p = input.profile;
  table rows{{"score", "split", "rows", "untouched [95%]", "tuned [95%]", "difference [95%]",
              "McNemar p"}};
  if (p.search) add_comparison(rows, "search", *p.search);
  if (p.test) add_comparison(rows, "test", *p.test);
  if (rows.size() == 1) return paragraph("The profile holds no scores (rows without labels).");
  std::string html =
      paragraph(
          "The search split chose the table, so its gain is flattered; the test split was "
          "read once.") +
      cards(card(html_table(rows, 2)));
  if (p.controls.empty()) return html;
  table controls{{"random heads, the same gammas", "likelihood", "generated", "invalid"}};
  for (const zerotune::control_report& control : p.controls)
    controls.push_back({"seed " + std::to_string(control.seed),
                        format_share(control.scores.likelihood, control.scores.likelihood_interval),
                        format_share(control.scores.generated, control.scores.generated_interval),
                        format_number("%.3f", control.scores.invalid)});
  return html + cards(card(html_table(controls)));
}

std::string search_section(const tuning_profile& p) {
  if (p.candidates.empty()) return paragraph("The profile lists no candidates.");
  std::vector<const zerotune::candidate_report*> order;
  for (const zerotune::candidate_report& c : p.candidates) order.push_back(&c);
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return a->rows != b->rows ? a->rows > b->rows : a->objective > b->objective;
  });
  table rows{{"method", "candidate", "strength", "rows", escape_html(p.objective), "likelihood",
              "generated", "invalid", ""}};
  for (const auto* c : order) {
    const auto share = [&](double score_report::*member) {
      return c->scores ? format_number("%.3f", *c->scores.*member) : std::string("-");
    };
    const bool chosen = c->method == p.chosen_method && c->detail == p.chosen_detail;
    rows.push_back({escape_html(c->method), escape_html(c->detail),
                    format_number("%.2f", c->strength), std::to_string(c->rows),
                    format_number("%.4f", c->objective), share(&score_report::likelihood),
                    share(&score_report::generated), share(&score_report::invalid),
                    chosen         ? "<b class=\"good\">chosen</b>"
                    : !c->admitted ? "refused"
                                   : ""});
  }
  return "<details" + std::string(rows.size() <= 16 ? " open" : "") + "><summary>" +
         std::to_string(p.candidates.size()) + " candidates</summary>" +
         cards(card(html_table(rows, 2))) + "</details>\n";
}

std::string cost_section(const report_input& input) {
  const tuning_profile& p = input.profile;
  if (!p.cost) return paragraph("The profile does not say what the search cost.");
  table rows{{"", ""},
             {"rows forward", std::to_string(p.cost->forward_rows)},
             {"rows forward and backward", std::to_string(p.cost->backward_rows)},
             {"time", format_seconds(p.cost->seconds)}};
  return cards(card(html_table(rows)));
}

}  // namespace zerotune_cli
