// SPDX-License-Identifier: Apache-2.0
// What zerotune report draws, read from files that are not trusted: a profile, and optionally an
// analysis, the predictions of evaluate before and after, and the rows.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "analyze.hpp"
#include "rows.hpp"
#include "zerotune/tuning/profile.hpp"

namespace zerotune_cli {

/// The model's answers to one row, before and after.
struct row_outcome {
  std::string id;
  index_t label = zerotune::no_label;
  struct answer {
    index_t predicted = zerotune::no_label;
    index_t generated = zerotune::no_label;  ///< no_label: invalid
    std::string continuation;                ///< may be empty
  } untouched, tuned;
};

/// What a report uses of an analysis.
struct analysis_report {
  std::vector<double> sink_mass;       ///< [layers][heads]
  std::vector<double> loss_effect;     ///< [layers][heads], empty without labels
  std::vector<double> entropy_effect;  ///< [layers][heads]
  measured untouched;
  std::vector<measured> sweep;
  std::vector<layer_group> groups;
  std::vector<scaled_position> positions;
  index_t rows = 0;
  std::string data_name;
};

struct report_input {
  std::string profile_name;  ///< of the file
  zerotune::tuning_profile profile;
  std::optional<analysis_report> analysis;
  std::vector<row_outcome> outcomes;  ///< in the order of the untouched file
  std::string outcomes_note;          ///< which rows these are; empty without outcomes
  std::vector<std::string> classes;   ///< names of the choices if all rows share them
  std::optional<data_set> data;
};

/// The files' names; all but the profile may be empty.
struct report_files {
  std::string profile, analysis, untouched, tuned, data;
};

/// Reads everything. Of the predictions only rows of the profile's test split count, if any is
/// there: on the other rows the table was chosen. Without predictions the profile's own "outcomes"
/// are used.
/// @throws usage_error, zerotune::format_error naming the file and what is wrong in it: also an
///         analysis of another shape than the profile's table, predictions of different rows
report_input read_report(const report_files& files);

}  // namespace zerotune_cli
