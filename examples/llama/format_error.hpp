// SPDX-License-Identifier: Apache-2.0
// The error that every reader of an untrusted file throws.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace llama {

/// A file does not hold what its format demands. The message reads
/// `WHERE: expected X, found Y`; WHERE begins with the name of the file.
struct format_error : std::runtime_error {
  format_error(std::string_view where, std::string_view expected, std::string_view found)
      : std::runtime_error(std::string(where) + ": expected " + std::string(expected) + ", found " +
                           std::string(found)) {}
};

}  // namespace llama
