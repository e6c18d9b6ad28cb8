// SPDX-License-Identifier: Apache-2.0
// Labelled examples as JSON lines: {"id", "text", "choices", "label"}, optionally "context".
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "zerotune/tuning/evaluator.hpp"

namespace zerotune_cli {

using zerotune::index_t;

/// One example. Every text comes from the file and is not trusted.
struct data_row {
  std::string id;
  std::string text;
  std::string context;  ///< empty if the row has none
  std::vector<std::string> choices;
  index_t label = zerotune::no_label;  ///< index into choices
  std::size_t line = 0;                ///< in its file, from 1
};

/// The examples of one file.
struct data_set {
  std::string name;  ///< of the file
  std::vector<data_row> rows;

  std::vector<index_t> labels() const;
  /// "file:line", for messages.
  std::string where(index_t row) const;
  /// @throws usage_error naming the first row without a label
  void require_labels(std::string_view command) const;
  /// Whether no row has a label. @throws usage_error if some have and some have not
  bool is_unlabelled() const;
};

/// Reads rows; blank lines are skipped and members with other names ignored.
/// @throws usage_error naming file and line: no JSON object, a missing or mistyped member, no
///         choice, an empty choice, a label that is none of the choices, an
///         id that is there twice; a line above 4 MiB, more than a million rows, 1000 choices
data_set parse_rows(std::string_view text, std::string name);

/// The same from a file of at most 1 GiB.
/// @throws usage_error also if the file cannot be read or holds no row
data_set read_rows(const std::filesystem::path& path);

}  // namespace zerotune_cli
