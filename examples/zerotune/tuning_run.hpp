// SPDX-License-Identifier: Apache-2.0
// The paper's procedure on a data set: three disjoint splits, head profile, search, and one read of
// the test split at the end.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "evaluator.hpp"
#include "zerotune/tuning/head_profile.hpp"
#include "zerotune/tuning/profile.hpp"
#include "zerotune/tuning/search.hpp"
#include "zerotune/tuning/splits.hpp"

namespace zerotune_cli {

/// What to do.
struct tuning_plan {
  bool selects_heads = true;  ///< false: one gamma for all heads (--method uniform)
  zerotune::probe_options probe;
  double share = 0.4;
  zerotune::search_options search;
  zerotune::split_sizes sizes;
  std::uint64_t seed = 1;
  index_t controls = 0;  ///< random selections to compare with
};

/// What came of it.
struct tuning_outcome {
  zerotune::data_splits splits;
  zerotune::head_profile profile;  ///< without units if no heads were selected
  zerotune::head_kind kind = zerotune::head_kind::up;
  std::vector<index_t> selected;
  zerotune::search_outcome search;
  zerotune::tuning_profile result;  ///< all that the profile file holds but the model and template
};

/// Runs the plan. Rows need labels for objective::accuracy; without any the outcome has no test
/// comparison.
/// @throws usage_error for too few rows or missing labels
tuning_outcome run_tuning(host_evaluator& host, const data_set& data, const tuning_plan& plan);

/// What people read: profile, grid, and the table before and after with what is significant.
std::string format_outcome(const tuning_outcome& outcome);

}  // namespace zerotune_cli
