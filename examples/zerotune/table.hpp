// SPDX-License-Identifier: Apache-2.0
// Plain tables for people, and the numbers in them.
#pragma once

#include <string>
#include <vector>

#include "zerotune/tuning/profile.hpp"

namespace zerotune_cli {

/// Rows of cells as text: columns as wide as their widest cell, the first aligned left, the others
/// right, a line under the first row.
std::string format_table(const std::vector<std::vector<std::string>>& rows);

/// printf of one number.
std::string format_number(const char* format, double value);

/// "0.550 [0.481, 0.617]", without brackets if there is no interval.
std::string format_share(double share, const std::optional<zerotune::interval>& bounds);

/// Shares with Wilson's intervals.
zerotune::score_report report_scores(const std::vector<zerotune::example_result>& results,
                                     const std::vector<zerotune::index_t>& examples,
                                     const std::vector<zerotune::index_t>& labels);

}  // namespace zerotune_cli
