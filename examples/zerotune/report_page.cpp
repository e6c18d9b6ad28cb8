// SPDX-License-Identifier: Apache-2.0
#include "report_page.hpp"

#include <algorithm>
#include <cmath>
#include <map>

#include "progress.hpp"
#include "report_charts.hpp"
#include "report_html.hpp"
#include "report_rows.hpp"
#include "table.hpp"

namespace zerotune_cli {

namespace {

using table = std::vector<std::vector<std::string>>;
using zerotune::comparison;
using zerotune::score_report;
using zerotune::tuning_profile;

constexpr double significance = 0.05;

std::string paragraph(const std::string& text, const char* kind = "soft") {
  return "<p class=\"" + std::string(kind) + "\">" + escape_html(text) + "</p>\n";
}
std::string card(const std::string& html) { return "<div class=\"card\">" + html + "</div>\n"; }
std::string cards(const std::string& html) { return "<div class=\"cards\">" + html + "</div>\n"; }

std::vector<double> doubles(const zerotune::gamma_table& gamma) {
  std::vector<double> values;
  for (const float value : gamma.values()) values.push_back(static_cast<double>(value));
  return values;
}

// ---- summary

std::string verdict(const char* score, double before, double after, double p) {
  std::string text = std::string("By ") + score + ": " + format_number("%.3f", before) + " to " +
                     format_number("%.3f", after) + " on the test split, ";
  const bool significant = p < significance;
  text += significant ? (after > before ? "a significant gain" : "a significant LOSS")
                      : "not significant";
  text += " (McNemar p = " + format_number("%.3g", p) + ").";
  return paragraph(text, !significant ? "" : after > before ? "good" : "bad");
}

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

// ---- before and after

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

// ---- heat maps

heat_map map_of(const report_input& input, std::string title, std::string note,
                std::vector<double> values, heat_map::scale kind) {
  return {std::move(title),
          std::move(note),
          static_cast<std::size_t>(input.profile.gamma.layers()),
          static_cast<std::size_t>(input.profile.gamma.heads()),
          std::move(values),
          kind};
}

// Effects of units as a table of heads; empty for units that do not fit.
std::vector<double> spread_units(const tuning_profile& p) {
  const auto layers = static_cast<std::size_t>(p.gamma.layers());
  const auto heads = static_cast<std::size_t>(p.gamma.heads());
  const std::size_t count = p.granularity == "head-index" ? heads
                            : p.granularity == "layer"    ? layers
                                                          : layers * heads;
  if (p.units.size() != count) return {};
  std::vector<double> by_unit(count), values;
  for (const zerotune::unit_effect& unit : p.units) {
    if (static_cast<std::size_t>(unit.unit) >= count) return {};
    by_unit[static_cast<std::size_t>(unit.unit)] = unit.effect != 0 ? unit.effect : unit.tie;
  }
  for (std::size_t i = 0; i < layers * heads; ++i)
    values.push_back(by_unit[p.granularity == "head-index" ? i % heads
                             : p.granularity == "layer"    ? i / heads
                                                           : i]);
  return values;
}

std::string heat_maps_section(const report_input& input) {
  const tuning_profile& p = input.profile;
  const auto negated = [](std::vector<double> values) {
    for (double& value : values) value = value == 0 ? 0.0 : -value;
    return values;
  };
  std::string maps = draw(map_of(input, "Chosen gamma",
                                 "Warm: more attention on the initial token (gamma above 1). Cold: "
                                 "less. By the logarithm; without colour it is 1.",
                                 doubles(p.gamma), heat_map::scale::around_one));
  bool effect = false;
  if (p.gradient) {
    effect = true;
    maps += draw(map_of(input, "Effect, by gradient",
                        "-d loss / d log gamma on the profile split. Warm: up-effective, more "
                        "attention helps. Cold: down-effective.",
                        negated(p.gradient->mean), heat_map::scale::around_zero));
  } else if (input.analysis && !input.analysis->loss_effect.empty()) {
    effect = true;
    maps += draw(map_of(input, "Effect, by gradient (from the analysis)",
                        "-d loss / d log gamma on the analysis's rows. Warm: up-effective. Cold: "
                        "down-effective.",
                        negated(input.analysis->loss_effect), heat_map::scale::around_zero));
  }
  if (std::vector<double> values = spread_units(p); !values.empty()) {
    effect = true;
    maps += draw(map_of(input, "Effect, by probing (" + p.granularity + ")",
                        "Change of the score with gamma " + format_number("%g", p.probe_gamma) +
                            " on one unit at a time; warm: better.",
                        std::move(values), heat_map::scale::around_zero));
  }
  if (input.analysis)
    maps += draw(map_of(input, "Sink mass",
                        "Mean attention to the initial token in the untouched model, 0 to 1.",
                        input.analysis->sink_mass, heat_map::scale::share));
  std::string html = paragraph(
      "Layers from top to bottom, heads from left to right; point at a cell for its value.");
  html += cards(maps);
  if (!effect)
    html += paragraph(
        "The profile holds no effects of heads (this method measures none); an "
        "analysis brings them with --analysis.");
  if (!input.analysis)
    html += paragraph("Sink mass comes with --analysis, a file that zerotune analyze writes.");
  return html;
}

// ---- curves

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

// ---- search

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

// ---- settings

class setting_list {
 public:
  void add(const std::string& name, const std::string& value) {
    if (value.empty()) return;
    html_ += "<tr><td>" + escape_html(name) + "</td><td><bdi>" +
             escape_html(shorten(value, 20000)) + "</bdi></td></tr>\n";
  }
  void add(const std::string& name, double value) {
    if (value != 0) add(name, format_number("%.6g", value));
  }
  std::string html() const {
    return "<div class=\"scroll\"><table class=\"keys\">" + html_ + "</table></div>";
  }

 private:
  std::string html_;
};

std::string ids(const char* name, const std::vector<std::string>& list) {
  std::string text;
  for (const std::string& id : list) text += (text.empty() ? "" : ", ") + id;
  return "<details><summary>" + std::string(name) + " split: " + std::to_string(list.size()) +
         " rows</summary><p class=\"small\"><bdi>" + escape_html(text) + "</bdi></p></details>\n";
}

std::string gamma_text(const zerotune::gamma_table& gamma) {
  std::string text;
  for (index_t layer = 0; layer < gamma.layers(); ++layer)
    for (index_t head = 0; head < gamma.heads(); ++head)
      text += format_number("%.9g", static_cast<double>(gamma(layer, head))) +
              (head + 1 < gamma.heads() ? " " : "\n");
  return "<details><summary>The table, a line per layer</summary><pre>" + text +
         "</pre></details>\n";
}

std::string settings_section(const report_input& input) {
  const tuning_profile& p = input.profile;
  setting_list list;
  list.add("profile", input.profile_name);
  list.add("model", p.model.name);
  list.add("architecture", p.model.architecture);
  list.add("layers", static_cast<double>(p.gamma.layers()));
  list.add("heads", static_cast<double>(p.gamma.heads()));
  list.add("key-value heads", static_cast<double>(p.model.kv_heads));
  list.add("weights", p.model.quantization);
  list.add("model file, SHA-256", p.model.file_hash);
  list.add("vocabulary, SHA-256", p.model.vocabulary_hash);
  list.add("template", p.template_text);
  list.add("form", p.form);
  list.add("method", p.method);
  list.add("chosen", p.chosen_method.empty() ? "" : p.chosen_method + ", " + p.chosen_detail);
  list.add("objective", p.objective);
  if (!p.method.empty()) list.add("seed", std::to_string(p.seed));
  if (p.loss) {
    list.add("loss: choices", p.loss->choices);
    list.add("loss: vocabulary", p.loss->vocabulary);
    list.add("loss: entropy", p.loss->entropy);
    list.add("loss: entropy over the choices", p.loss->choice_entropy);
  }
  list.add("granularity", p.granularity);
  list.add("kind", p.kind);
  list.add("probe gamma", p.probe_gamma);
  list.add("share", p.share);
  for (const auto& [name, value] : input.settings) list.add(name, value);
  std::string html = card(list.html());
  if (p.splits)
    html += ids("profile", p.splits->profile) + ids("search", p.splits->search) +
            ids("test", p.splits->test);
  return html + gamma_text(p.gamma);
}

}  // namespace

std::string make_report(const report_input& input, index_t examples) {
  const tuning_profile& p = input.profile;
  const struct {
    const char *id, *title;
    std::string html;
  } sections[] = {
      {"before-after", "Before and after", before_after_section(input)},
      {"heat-maps", "Heads", heat_maps_section(input)},
      {"curves", "Curves", curves_section(input)},
      {"classes", "Per class", per_class_section(input)},
      {"confusion", "Confusion", confusion_section(input)},
      {"examples", "Examples that changed", changed_section(input, examples)},
      {"search", "Search", search_section(p)},
      {"cost", "Cost of the search", cost_section(input)},
      {"settings", "Settings, to repeat it", settings_section(input)},
  };
  const std::string model = p.model.name.empty() ? "a model" : p.model.name;
  std::string body = "<h1>Attention to the initial token, tuned</h1>\n<p class=\"soft\"><bdi>" +
                     escape_html(model) + "</bdi>, " + std::to_string(p.gamma.layers()) +
                     " layers of " + std::to_string(p.gamma.heads()) + " heads";
  if (!p.chosen_method.empty())
    body += "; found by " + escape_html(p.chosen_method) + ", " + escape_html(p.chosen_detail);
  body += "</p>\n<section id=\"summary\">\n" + summary_section(input) + "</section>\n<nav>";
  for (const auto& section : sections)
    body += "<a href=\"#" + std::string(section.id) + "\">" + section.title + "</a>\n";
  body += "</nav>\n";
  for (const auto& section : sections)
    body += "<section id=\"" + std::string(section.id) + "\">\n<h2>" + section.title + "</h2>\n" +
            section.html + "</section>\n";
  return html_page("zerotune: " + model, body);
}

}  // namespace zerotune_cli
