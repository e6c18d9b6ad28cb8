// SPDX-License-Identifier: Apache-2.0
// Everything that a tuning run was told or took as default, for its profile.
#pragma once

#include <vector>

#include "rows.hpp"
#include "tuning_run.hpp"
#include "zerotune/tuning/profile.hpp"

namespace zerotune_cli {

/// The plan as it was in effect and the data set it was for; what the profile says elsewhere
/// (template, seed, model, rows of each split) is not repeated. Sorted by name.
std::vector<zerotune::profile_setting> settings_of(const tuning_plan& plan, const data_set& data);

}  // namespace zerotune_cli
