// SPDX-License-Identifier: Apache-2.0
// Tuning on a data set: three disjoint splits, candidates from the profile split, a choice on the
// search split, and one read of the test split at the end.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "evaluator.hpp"
#include "tuning_journal.hpp"
#include "zerotune/tuning/profile.hpp"
#include "zerotune/tuning/search.hpp"
#include "zerotune/tuning/splits.hpp"

namespace zerotune_cli {

/// What to do.
struct tuning_plan {
  std::string method;  ///< as on the command line
  zerotune::search_options search;
  zerotune::split_sizes sizes;
  std::uint64_t seed = 1;
  index_t controls = 0;               ///< random selections to compare with
  tuning_journal* journal = nullptr;  ///< null: none is kept
  std::string data_hash{};            ///< of the data file, for the record
  std::string arithmetic{};           ///< of the model, likewise
  std::string shots{};                ///< ids of the prompts' examples, likewise
};

/// What came of it.
struct tuning_outcome {
  zerotune::data_splits splits;
  zerotune::search_outcome search;
  zerotune::tuning_profile result;  ///< all that the profile file holds but the model and template
};

/// Runs the plan. Rows need labels for a supervised objective or loss; without any the outcome has
/// no test comparison.
/// @throws usage_error for too few rows or missing labels
tuning_outcome run_tuning(host_evaluator& host, const data_set& data, const tuning_plan& plan);

/// What people read: how the table was found, and the table before and after with what is
/// significant.
std::string format_outcome(const tuning_outcome& outcome);

}  // namespace zerotune_cli
