// SPDX-License-Identifier: Apache-2.0
// What translated PTX calls. Memory accesses check the natural alignment of the device, and shared
// memory its bounds.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "ptx/kernel_table.hpp"
#include "scheduler/host_context.hpp"

namespace zerotune_ptx {

using zerotune_test::host_context;
using zerotune_test::lane;

[[noreturn]] inline void fail(const char* what, int line) {
  throw std::logic_error(std::string(what) + ", PTX line " + std::to_string(line));
}

template <class T, int Count>
char* aligned(char* p, int line) {
  if (reinterpret_cast<std::uintptr_t>(p) % (sizeof(T) * Count) != 0)
    fail("misaligned access", line);
  return p;
}
/// An address of shared memory: an offset into the block's one piece.
template <int Bytes>
char* in_shared(char* base, std::size_t size, std::uint32_t offset, int line) {
  if (offset + std::size_t{Bytes} > size) fail("access beyond shared memory", line);
  return base + offset;
}

inline float fma_down(float a, float b, float c) {
  const double exact = double(a) * double(b) + double(c);
  const float nearest = static_cast<float>(exact);
  return double(nearest) > exact ? std::nextafterf(nearest, -INFINITY) : nearest;
}
inline float saturate(float x) { return x > 0.0f ? std::min(x, 1.0f) : 0.0f; }
inline void check_mask(std::uint32_t mask, int line) {
  if (mask != 0xffffffffu) fail("a collective of a part of the warp", line);
}

/// One thread: its context does what PTX and kernels share.
struct thread {
  host_context context;
  char* shared;
  std::size_t shared_bytes;

  thread(lane& l, std::size_t bytes)
      : context(l),
        shared(bytes ? static_cast<char*>(zerotune_test::shared_piece(l, bytes)) : nullptr),
        shared_bytes(bytes) {}

  void copy_async(std::uint32_t to, std::uint64_t from, std::uint32_t bytes, int line) {
    if (bytes != 0 && bytes != 16) fail("cp.async of a part", line);
    char* const target = aligned<char, 16>(in_shared<16>(shared, shared_bytes, to, line), line);
    auto* const source = reinterpret_cast<char*>(from);
    if (bytes) aligned<char, 16>(source, line);
    context.copy_async(target, static_cast<const char*>(source), bytes == 16, line);
  }
  template <bool Transposed>
  void load_matrices(std::uint32_t (&r)[4], std::uint32_t row, int line) {
    const char* const p = aligned<char, 16>(in_shared<16>(shared, shared_bytes, row, line), line);
    if constexpr (Transposed)
      context.load_matrices_transposed(r, p, line);
    else
      context.load_matrices(r, p, line);
  }
  std::uint32_t shuffle(std::uint32_t value, std::uint32_t operand, std::uint32_t clamp,
                        std::uint32_t mask, bool exchange, int line) {
    check_mask(mask, line);
    if (clamp != 31u) fail("a shuffle of a part of the warp", line);
    const int i = static_cast<int>(operand);
    return exchange ? context.shuffle_xor(value, i, line) : context.shuffle(value, i, line);
  }
};

}  // namespace zerotune_ptx
