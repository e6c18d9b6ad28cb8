// SPDX-License-Identifier: Apache-2.0
// The program's own errors and the exit status of each.
#pragma once

#include <stdexcept>

namespace zerotune_cli {

/// A caller's mistake: an option, a file that is missing or malformed, too few rows. The program
/// ends with status 2.
struct usage_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Something that is not the caller's doing, such as a disk that is full. Status 1.
struct output_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace zerotune_cli
