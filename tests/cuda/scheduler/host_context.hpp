// SPDX-License-Identifier: Apache-2.0
// The context of a CUDA thread on the CPU: the same functions as device_context.cuh, each a few
// lines on the scheduler. Collectives carry the line they stand at: a warp whose lanes wait at
// different lines has diverged.
#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include "scheduler/collectives.hpp"
#include "scheduler/scheduler.hpp"
#include "zerotune/kernel/cuda/context.cuh"

namespace zerotune_test {

class host_context {
 public:
  explicit host_context(zerotune_test::lane& l) : lane_(l) {}

  int thread() const { return lane_.thread; }
  int threads() const { return lane_.threads; }
  zerotune::index_t block() const { return lane_.block; }
  int lane() const { return lane_.thread % 32; }
  int warp() const { return lane_.thread / 32; }
  int warps() const { return lane_.threads / 32; }
  void barrier(int line = __builtin_LINE()) const { meet_barrier(lane_, line); }
  void warp_barrier(int line = __builtin_LINE()) const {
    meet_collective(lane_, nullptr, nullptr, line, true);
  }

  template <class T>
  T shuffle_xor(T value, int mask, int line = __builtin_LINE()) const {
    return exchange(value, mask, &combine_shuffle_xor, line);
  }
  template <class T>
  T shuffle(T value, int from, int line = __builtin_LINE()) const {
    return exchange(value, from, &combine_shuffle, line);
  }

  template <class T>
  T* shared(int count) {
    return static_cast<T*>(shared_piece(lane_, static_cast<std::size_t>(count) * sizeof(T)));
  }

  template <class T>
  T load(const T* from, int line = __builtin_LINE()) const {
    trace(from, sizeof(T), access::global_load, line);
    return *from;
  }
  template <class T>
  void store(T* to, const T& value, int line = __builtin_LINE()) const {
    trace(to, sizeof(T), access::global_store, line);
    *to = value;
  }

  /// Until it is waited for, the place holds NaN: what the copy overwrites is gone at once, and
  /// what it brings is not there before the wait.
  template <class T>
  void copy_async(T* to, const T* from, bool valid, int line = __builtin_LINE()) {
    if (valid) trace(from, 16, access::global_load, line);
    trace(to, 16, access::shared_store, line);
    using words = zerotune::cuda::packet<std::uint32_t>;
    *reinterpret_cast<words*>(to) = {{~0u, ~0u, ~0u, ~0u}};
    copies_.push_back({to, valid ? from : nullptr, groups_});
  }
  void commit_copies() { ++groups_; }
  template <int Pending>
  void wait_copies() {
    using words = zerotune::cuda::packet<std::uint32_t>;
    std::size_t kept = 0;
    for (const copy& pending : copies_) {
      if (pending.group >= groups_ - Pending) {
        copies_[kept++] = pending;
        continue;
      }
      words value{};
      if (pending.from) value = *static_cast<const words*>(pending.from);
      *static_cast<words*>(pending.to) = value;
    }
    copies_.resize(kept);
  }

  template <class T>
  void load_matrices(std::uint32_t (&r)[4], const T* row, int line = __builtin_LINE()) const {
    matrices<false>(r, row, line);
  }
  template <class T>
  void load_matrices_transposed(std::uint32_t (&r)[4], const T* row,
                                int line = __builtin_LINE()) const {
    matrices<true>(r, row, line);
  }
  template <class T>
  void mma(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
           int line = __builtin_LINE()) const {
    mma_frame frame{d, a, b};
    meet_collective(lane_, &frame, &combine_mma<T>, line, false);
  }

  float to_float(float x) const { return x; }
  float to_float(zerotune::float16 x) const { return static_cast<float>(x); }
  float to_float(zerotune::bfloat16 x) const { return static_cast<float>(x); }
  template <class T>
  T round(float x) const {
    return static_cast<T>(x);
  }
  template <class T>
  std::uint32_t pack(float low, float high) const {
    return std::uint32_t{T(low).bits} | (std::uint32_t{T(high).bits} << 16);
  }
  float exp2(float x) const { return std::exp2(x); }
  float reciprocal(float x) const { return 1.0f / x; }

 private:
  struct copy {
    void* to;
    const void* from;
    int group;
  };

  void trace(const void* address, std::size_t bytes, access::kind what, int line) const {
    if (!lane_.trace) return;
    if (is_shared(lane_, address)) {
      if (what == access::global_load) what = access::shared_load;
      if (what == access::global_store) what = access::shared_store;
    }
    lane_.trace->push_back({address, line, static_cast<std::uint16_t>(bytes), what});
  }
  template <class T>
  T exchange(T value, int operand, void (*combine)(void**), int line) const {
    static_assert(sizeof(T) <= 8);
    shuffle_frame frame{0, 0, operand};
    std::memcpy(&frame.in, &value, sizeof(T));
    meet_collective(lane_, &frame, combine, line, false);
    std::memcpy(&value, &frame.out, sizeof(T));
    return value;
  }
  template <bool Transposed, class T>
  void matrices(std::uint32_t (&r)[4], const T* row, int line) const {
    trace(row, 16, access::matrix_load, line);
    matrix_frame frame;
    const auto value = *reinterpret_cast<const zerotune::cuda::packet<std::uint16_t>*>(row);
    std::memcpy(frame.row, value.values, sizeof(frame.row));
    meet_collective(lane_, &frame, Transposed ? &combine_matrices_transposed : &combine_matrices,
                    line, false);
    std::memcpy(r, frame.out, sizeof(r));
  }

  zerotune_test::lane& lane_;
  std::vector<copy> copies_;
  int groups_ = 0;
};

static_assert(zerotune::cuda::context<host_context>);

}  // namespace zerotune_test
