// SPDX-License-Identifier: Apache-2.0
// Names of the library's choices on the command line, and how heads are profiled and tables
// searched.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "zerotune/tuning/head_profile.hpp"
#include "zerotune/tuning/search.hpp"

namespace zerotune_cli {

inline const std::map<std::string, zerotune::granularity>& granularity_names() {
  static const std::map<std::string, zerotune::granularity> names{
      {"head-index", zerotune::granularity::head_index},
      {"layer", zerotune::granularity::layer},
      {"head", zerotune::granularity::head}};
  return names;
}

inline const std::map<std::string, zerotune::objective>& objective_names() {
  static const std::map<std::string, zerotune::objective> names{
      {"accuracy", zerotune::objective::accuracy},
      {"likelihood", zerotune::objective::likelihood},
      {"entropy", zerotune::objective::entropy},
      {"choice-entropy", zerotune::objective::choice_entropy}};
  return names;
}

/// The name of a value. @pre it is one of the map's
template <class T>
const std::string& name_of(const std::map<std::string, T>& names, T value) {
  for (const auto& [name, named] : names)
    if (named == value) return name;
  return names.begin()->first;
}

inline const char* name_of(zerotune::head_kind kind) {
  return kind == zerotune::head_kind::up ? "up" : "down";
}

/// Keys of a map, for help and for CLI::IsMember.
template <class T>
std::vector<std::string> keys_of(const std::map<std::string, T>& names) {
  std::vector<std::string> keys;
  for (const auto& entry : names) keys.push_back(entry.first);
  return keys;
}

/// "layer 3 head 5", "head 5" or "layer 3".
std::string name_of_unit(zerotune::granularity unit, zerotune::index_t heads,
                         zerotune::index_t index);

/// How heads are profiled.
struct probe_settings {
  std::string granularity = "head-index";
  std::string objective = "accuracy";
  float probe_gamma = 2.0f;
  double share = 0.4;

  void add(CLI::App& command);
  zerotune::probe_options options() const {
    return {granularity_names().at(granularity), probe_gamma, objective_names().at(objective)};
  }
};

/// A loss as --loss names it: parts with optional weights, such as "choices=1,vocabulary=0.5".
/// @throws usage_error for an unknown part, one named twice, or a weight that is not finite and > 0
zerotune::loss_weights parse_loss(std::string_view text);

/// What --method accepts.
const std::vector<std::string>& method_names();

/// How a table is searched.
struct search_settings {
  std::string method = "auto";
  std::string profiling;      ///< empty: by the method
  std::string loss;           ///< empty: by the objective
  std::vector<float> grid{};  ///< empty: by the method
  zerotune::search_options search;

  void add(CLI::App& command);
  /// @param differentiable  whether the host gives gradients; without them auto leaves out what
  ///                        needs them
  /// @throws usage_error for a loss that cannot be parsed
  zerotune::search_options options(const probe_settings& probe, std::uint64_t seed,
                                   bool differentiable) const;
};

/// Rows of a profile as a table: unit, effect, kind.
std::string format_profile(const zerotune::head_profile& profile,
                           const std::vector<zerotune::index_t>& selected);

}  // namespace zerotune_cli
