// SPDX-License-Identifier: Apache-2.0
#include "report_charts.hpp"
#include "report_html.hpp"
#include "report_sections.hpp"
#include "table.hpp"

namespace zerotune_cli {

namespace {

using zerotune::tuning_profile;

std::vector<double> doubles(const zerotune::gamma_table& gamma) {
  std::vector<double> values;
  for (const float value : gamma.values()) values.push_back(static_cast<double>(value));
  return values;
}

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

}  // namespace

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

}  // namespace zerotune_cli
