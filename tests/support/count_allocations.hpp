// SPDX-License-Identifier: Apache-2.0
#pragma once

// Replaces the program's operator new and delete, all of them, by ones that count: include this in
// one translation unit of an executable.

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace test {

/// How often any thread has asked operator new for memory.
inline std::atomic<long> allocations{0};
/// How many more of them get it; below 0: all.
inline std::atomic<long> allocations_left{-1};

inline void* counted_or_null(std::size_t size, std::size_t alignment) noexcept {
  ++allocations;
  for (long left = allocations_left; left >= 0;) {
    if (left == 0) return nullptr;
    if (allocations_left.compare_exchange_weak(left, left - 1)) break;
  }
  const std::size_t rounded = (size + alignment - 1) / alignment * alignment;
  return std::aligned_alloc(alignment, rounded ? rounded : alignment);
}
inline void* counted(std::size_t size, std::size_t alignment) {
  if (void* const memory = counted_or_null(size, alignment)) return memory;
  throw std::bad_alloc();
}

}  // namespace test

// Not inlined: compilers would take the pair of aligned_alloc and delete for a mistake. The forms
// for arrays call these; those that do not throw have to be replaced with them, or a library that
// takes memory with the one and returns it with the other mixes two heaps.
[[gnu::noinline]] void* operator new(std::size_t size) {
  return test::counted(size, alignof(std::max_align_t));
}
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
  return test::counted(size, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return test::counted_or_null(size, alignof(std::max_align_t));
}
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment,
                                     const std::nothrow_t&) noexcept {
  return test::counted_or_null(size, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t&) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t,
                                       const std::nothrow_t&) noexcept {
  std::free(memory);
}
