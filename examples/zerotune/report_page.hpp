// SPDX-License-Identifier: Apache-2.0
// The page of zerotune report.
#pragma once

#include <string>

#include "report_input.hpp"

namespace zerotune_cli {

/// One self-contained HTML file. Every text of the input is escaped. Every section is there; one
/// without data says what would fill it.
/// @param examples  show at most this many rows whose answer changed
std::string make_report(const report_input& input, index_t examples);

}  // namespace zerotune_cli
