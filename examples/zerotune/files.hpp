// SPDX-License-Identifier: Apache-2.0
// Whole files as text, with errors that name them.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace zerotune_cli {

/// The contents of a regular file.
/// @throws usage_error if it cannot be read or is larger than `limit` bytes
std::string read_file(const std::filesystem::path& path, std::size_t limit);

/// Writes a file under a temporary name beside it and renames it, so that no half-written file is
/// ever seen under its name.
/// @throws output_error naming the file
void write_file(const std::filesystem::path& path, std::string_view text);

}  // namespace zerotune_cli
