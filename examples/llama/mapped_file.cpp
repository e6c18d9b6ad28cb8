// SPDX-License-Identifier: Apache-2.0
#include "llama/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

namespace llama {
namespace {

[[noreturn]] void fail(const char* action, const std::filesystem::path& path, int error) {
  throw std::system_error(error, std::generic_category(),
                          std::string(action) + " " + path.string());
}

struct descriptor {
  int number;
  ~descriptor() { ::close(number); }
};

}  // namespace

mapped_file::mapped_file(const std::filesystem::path& path) {
  const int number = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (number < 0) fail("open", path, errno);
  const descriptor file{number};
  struct stat status {};
  if (::fstat(file.number, &status) != 0) fail("stat", path, errno);
  if (!S_ISREG(status.st_mode)) fail("map (not a regular file)", path, EINVAL);
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size == 0) return;  // mmap refuses an empty range
  void* memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.number, 0);
  if (memory == MAP_FAILED) fail("map", path, errno);
  bytes_ = {static_cast<const std::byte*>(memory), size};
}

mapped_file::~mapped_file() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace llama
