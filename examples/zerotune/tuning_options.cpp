// SPDX-License-Identifier: Apache-2.0
#include "tuning_options.hpp"

#include <algorithm>

#include "table.hpp"

namespace zerotune_cli {

using zerotune::index_t;

std::string name_of_unit(zerotune::granularity unit, index_t heads, index_t index) {
  switch (unit) {
    case zerotune::granularity::head_index:
      return "head " + std::to_string(index);
    case zerotune::granularity::layer:
      return "layer " + std::to_string(index);
    case zerotune::granularity::head:
      break;
  }
  return "layer " + std::to_string(index / heads) + " head " + std::to_string(index % heads);
}

void probe_settings::add(CLI::App& command) {
  command
      .add_option("--granularity", granularity,
                  "what is probed as one: a head index across all layers, a layer, or a head")
      ->check(CLI::IsMember(keys_of(granularity_names())))
      ->capture_default_str();
  command
      .add_option("--objective", objective,
                  "accuracy (mean of both scores) on labelled rows, or the least entropy of the "
                  "next token or among the choices, which needs no label and is not accuracy")
      ->check(CLI::IsMember(keys_of(objective_names())))
      ->capture_default_str();
  command.add_option("--probe-gamma", probe_gamma, "gamma of the probed heads")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  command
      .add_option("--share", share,
                  "the most units to select, as a share of all, of the dominant "
                  "kind")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
}

std::string format_profile(const zerotune::head_profile& profile,
                           const std::vector<index_t>& selected) {
  std::vector<std::vector<std::string>> rows{{"unit", "effect", "tie-breaker", "kind", "selected"}};
  for (index_t unit = 0; unit < static_cast<index_t>(profile.effect.size()); ++unit) {
    const zerotune::objective_score& effect = profile.effect[static_cast<std::size_t>(unit)];
    const int kind = zerotune::direction(profile, unit);
    const bool chosen = std::find(selected.begin(), selected.end(), unit) != selected.end();
    rows.push_back({name_of_unit(profile.unit, profile.heads, unit),
                    format_number("%+.4f", effect.value), format_number("%+.4f", effect.tie),
                    kind > 0   ? "up"
                    : kind < 0 ? "down"
                               : "none",
                    chosen ? "yes" : ""});
  }
  return format_table(rows);
}

}  // namespace zerotune_cli
