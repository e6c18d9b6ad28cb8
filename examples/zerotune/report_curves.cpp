// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>

#include "report_charts.hpp"
#include "report_html.hpp"
#include "report_sections.hpp"
#include "table.hpp"

namespace zerotune_cli {

namespace {

using zerotune::tuning_profile;

chart_point point_of(double x, double y, const std::optional<zerotune::interval>& bounds,
                     std::string title = {}) {
  return {x, y, bounds, std::move(title)};
}

// Both scores of the candidates of a grid, by gamma, one chart a method.
std::string grid_charts(const tuning_profile& p) {
  std::map<std::string, line_chart> charts;
  for (const zerotune::candidate_report& c : p.candidates) {
    if (!c.gamma || !c.scores || c.method == "untouched") continue;
    line_chart& chart = charts[c.method];
    if (chart.curves.empty())
      chart = {"Gamma curve, " + c.method,     "gamma (chosen heads)",
               "accuracy on the search split", true,
               zerotune::interval{0, 1},       {{"likelihood", {}}, {"generated", {}}}};
    const std::string seen = c.detail + ", " + std::to_string(c.rows) + " rows: ";
    chart.curves[0].points.push_back(
        point_of(*c.gamma, c.scores->likelihood, c.scores->likelihood_interval,
                 seen + "likelihood " + format_number("%.3f", c.scores->likelihood)));
    chart.curves[1].points.push_back(
        point_of(*c.gamma, c.scores->generated, c.scores->generated_interval,
                 seen + "generated " + format_number("%.3f", c.scores->generated)));
  }
  const auto untouched = std::find_if(p.candidates.begin(), p.candidates.end(), [](const auto& c) {
    return c.method == "untouched" && c.scores;
  });
  std::string html;
  for (auto& [method, chart] : charts) {
    if (untouched != p.candidates.end()) {
      chart.curves[0].points.push_back(point_of(
          1, untouched->scores->likelihood, untouched->scores->likelihood_interval, "untouched"));
      chart.curves[1].points.push_back(point_of(
          1, untouched->scores->generated, untouched->scores->generated_interval, "untouched"));
    }
    // Candidates of one gamma that differ in their heads stand above each other, not joined.
    for (chart_curve& curve : chart.curves) {
      std::stable_sort(curve.points.begin(), curve.points.end(),
                       [](const auto& a, const auto& b) { return a.x < b.x; });
      for (std::size_t i = 1; i < curve.points.size(); ++i)
        if (curve.points[i].x == curve.points[i - 1].x) curve.joined = false;
    }
    html += draw(chart);
  }
  return html;
}

// Every candidate by how far its table is from 1: the one scale that all methods share.
std::string strength_charts(const tuning_profile& p) {
  std::string html;
  for (const bool generated : {false, true}) {
    line_chart chart{generated ? "All candidates, generated" : "All candidates, likelihood",
                     "strength: root mean square of log gamma",
                     "accuracy on the search split",
                     false,
                     zerotune::interval{0, 1},
                     {}};
    std::map<std::string, chart_curve> curves;
    for (const zerotune::candidate_report& c : p.candidates) {
      if (!c.scores) continue;
      const double share = generated ? c.scores->generated : c.scores->likelihood;
      chart_curve& curve = curves[c.method];
      curve.name = c.method;
      curve.joined = false;
      curve.points.push_back(
          point_of(c.strength, share,
                   generated ? c.scores->generated_interval : c.scores->likelihood_interval,
                   c.method + ", " + c.detail + ", " + std::to_string(c.rows) +
                       " rows: " + format_number("%.3f", share)));
    }
    for (auto& entry : curves) chart.curves.push_back(std::move(entry.second));
    if (!chart.curves.empty()) html += draw(chart);
  }
  return html;
}

std::optional<zerotune::interval> shifted(double by, const zerotune::interval& change) {
  return zerotune::interval{by + change.low, by + change.high};
}

line_chart chart_of(const std::string& title, bool loss) {
  return {title, "gamma", loss ? "loss, nats" : "output entropy, nats", true, std::nullopt, {}};
}

void add_curve(line_chart& chart, const std::string& name, const std::vector<measured>& effects,
               const measured& untouched, bool loss) {
  chart_curve curve{name, {}};
  bool has_one = false;
  const auto value = [&](const measured& m) { return loss ? m.loss.value_or(0) : m.entropy; };
  for (const measured& m : effects) {
    has_one |= m.gamma == 1;
    const std::optional<zerotune::interval> change =
        loss ? m.loss_change : std::optional(m.entropy_change);
    curve.points.push_back(
        point_of(m.gamma, value(m), change ? shifted(value(untouched), *change) : std::nullopt));
  }
  if (!has_one) curve.points.push_back(point_of(1, value(untouched), std::nullopt, "untouched"));
  std::stable_sort(curve.points.begin(), curve.points.end(),
                   [](const auto& a, const auto& b) { return a.x < b.x; });
  chart.curves.push_back(std::move(curve));
}

std::string analysis_charts(const analysis_report& a) {
  std::string html;
  for (const bool loss : {true, false}) {
    if (loss && !a.untouched.loss) continue;
    line_chart all = chart_of("Gamma on all heads", loss);
    add_curve(all, "all heads", a.sweep, a.untouched, loss);
    line_chart groups = chart_of("Layer groups", loss);
    for (const layer_group& group : a.groups)
      add_curve(groups,
                group.name + " (" + std::to_string(group.first) + "\xe2\x80\x93" +
                    std::to_string(group.last) + ")",
                group.effects, a.untouched, loss);
    line_chart places = chart_of("One token of the prompt scaled", loss);
    for (const scaled_position& position : a.positions)
      add_curve(places, position.name, position.effects, a.untouched, loss);
    html += draw(all) + draw(groups) + draw(places);
  }
  return html;
}

}  // namespace

std::string curves_section(const report_input& input) {
  const tuning_profile& p = input.profile;
  std::string html = paragraph(
      "Bars are 95% intervals (Wilson's). A candidate that fell out of the race early was "
      "judged on fewer rows and has a wider one; point at a dot for its rows.");
  const std::string charts = grid_charts(p) + strength_charts(p);
  html +=
      charts.empty() ? paragraph("The profile holds no candidates with scores.") : cards(charts);
  if (!p.descent.empty()) {
    line_chart chart{"Descent", "step", "loss of its rows", false, std::nullopt, {{"loss", {}}}};
    for (const zerotune::step_report& step : p.descent)
      chart.curves[0].points.push_back(
          point_of(static_cast<double>(step.step), step.loss, std::nullopt));
    html += cards(draw(chart));
  }
  if (input.analysis) {
    html += paragraph("From the analysis of " + std::to_string(input.analysis->rows) + " rows of " +
                      input.analysis->data_name +
                      "; bars are 95% intervals of the change (paired bootstrap).");
    html += cards(analysis_charts(*input.analysis));
  }
  return html;
}

}  // namespace zerotune_cli
