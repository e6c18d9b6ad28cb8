// SPDX-License-Identifier: Apache-2.0
// Memory that must not be touched: pages without any permission beside pages with.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <new>

#include "zerotune/core/types.hpp"

namespace test {

/// A mapping of address space; pages cost memory once they are written. Nothing may be read before
/// allow() has named it.
class guarded_memory {
 public:
  explicit guarded_memory(std::size_t bytes) : bytes_(round_up(bytes)) {
    data_ = static_cast<char*>(
        ::mmap(nullptr, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (data_ == MAP_FAILED) throw std::bad_alloc();
  }
  guarded_memory(const guarded_memory&) = delete;
  guarded_memory& operator=(const guarded_memory&) = delete;
  ~guarded_memory() { ::munmap(data_, bytes_); }

  static std::size_t page() { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }
  /// Makes whole pages usable. @pre both are multiples of page()
  void allow(std::size_t first, std::size_t bytes) {
    if (::mprotect(data_ + first, bytes, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
  }
  char* data() { return data_; }
  std::size_t size() const { return bytes_; }

 private:
  static std::size_t round_up(std::size_t bytes) { return (bytes + page() - 1) / page() * page(); }
  std::size_t bytes_;
  char* data_ = nullptr;
};

}  // namespace test
