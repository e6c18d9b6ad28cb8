// SPDX-License-Identifier: Apache-2.0
// The sections of a report that look at single rows: per class, confusion, what changed.
#pragma once

#include <string>

#include "report_input.hpp"

namespace zerotune_cli {

/// HTML without a heading; says what is missing if there are no outcomes with labels.
std::string per_class_section(const report_input& input);
std::string confusion_section(const report_input& input);
/// @param limit  show at most this many
std::string changed_section(const report_input& input, index_t limit);

}  // namespace zerotune_cli
