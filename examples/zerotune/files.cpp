// SPDX-License-Identifier: Apache-2.0
#include "files.hpp"

#include <cerrno>
#include <fstream>
#include <iterator>
#include <system_error>

#include "failure.hpp"

namespace zerotune_cli {

namespace fs = std::filesystem;

std::string read_file(const fs::path& path, std::size_t limit) {
  std::error_code error;
  if (fs::is_directory(path, error)) throw usage_error(path.string() + ": is a directory");
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    const int number = errno;
    throw usage_error(path.string() + ": cannot be opened: " +
                      std::generic_category().message(number != 0 ? number : EIO));
  }
  std::string text;
  char block[1 << 16];
  // Counted while reading: the size that a file states need not be the one that it has.
  while (file.read(block, sizeof block), file.gcount() > 0) {
    text.append(block, static_cast<std::size_t>(file.gcount()));
    if (text.size() > limit)
      throw usage_error(path.string() + ": expected at most " + std::to_string(limit) +
                        " bytes, got more");
  }
  if (file.bad()) throw usage_error(path.string() + ": cannot be read");
  return text;
}

void write_file(const fs::path& path, std::string_view text) {
  const fs::path temporary = path.string() + ".part";
  std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  file.close();
  std::error_code error;
  if (!file) {
    fs::remove(temporary, error);
    throw output_error(path.string() + ": cannot be written");
  }
  fs::rename(temporary, path, error);
  if (error) throw output_error(path.string() + ": cannot be written: " + error.message());
}

}  // namespace zerotune_cli
