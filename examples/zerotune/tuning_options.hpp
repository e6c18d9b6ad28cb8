// SPDX-License-Identifier: Apache-2.0
// Names of the library's choices on the command line, and options that heads and tune share.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <string>
#include <string_view>

#include "zerotune/tuning/head_profile.hpp"

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

/// Rows of a profile as a table: unit, effect, kind.
std::string format_profile(const zerotune::head_profile& profile,
                           const std::vector<zerotune::index_t>& selected);

}  // namespace zerotune_cli
