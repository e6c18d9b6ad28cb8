// SPDX-License-Identifier: Apache-2.0
// The sections of a report but those on single rows (report_rows.hpp).
#pragma once

#include <string>

#include "report_input.hpp"

namespace zerotune_cli {

// HTML without a heading. Every text of the input is escaped; a section without data says what
// would fill it.

/// What the test split says, the placebo and the warnings.
std::string summary_section(const report_input& input);
/// Both splits side by side, and the controls.
std::string before_after_section(const report_input& input);
/// Layers by heads: gamma, effects, sink mass.
std::string heat_maps_section(const report_input& input);
/// Scores by gamma and by strength, the descent, and what an analysis measured.
std::string curves_section(const report_input& input);
/// Every candidate.
std::string search_section(const zerotune::tuning_profile& profile);
std::string cost_section(const report_input& input);
/// All that is needed to repeat the run, and the table itself.
std::string settings_section(const report_input& input);

}  // namespace zerotune_cli
