// SPDX-License-Identifier: Apache-2.0
// Scratch memory for tasks that run at once (layer: apply): the caller's workspace, or memory that
// one call owns, in slots that tasks take and give back.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <thread>

#include "zerotune/apply/checks.hpp"
#include "zerotune/kernel/kernel.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Most slots of one call: the bits of a word.
inline constexpr index_t scratch_limit = 64;

/// Bytes of a workspace of `slots` slots, wherever it begins.
inline index_t workspace_bytes(index_t slot_bytes, index_t slots) {
  if (slot_bytes == 0) return 0;
  const index_t most = slots < scratch_limit ? slots : scratch_limit;
  return slot_bytes * (most < 1 ? 1 : most) + scratch_alignment - 1;
}

/// The slots of one call.
class scratch_slots {
 public:
  /// @param workspace  the caller's memory, or empty: then a slot is allocated for each of `tasks`,
  ///                   at most one for each thread of the machine
  /// @throws invalid_argument for a workspace that is too small; std::bad_alloc
  scratch_slots(const char* function, const tensor_view<std::byte, 1>& workspace,
                index_t slot_bytes, index_t tasks)
      : slot_bytes_(slot_bytes) {
    if (slot_bytes == 0) return;
    if (workspace.data()) {
      const index_t needed = workspace_bytes(slot_bytes, 1);
      if (workspace.extent(0) < needed)
        fail(function, "workspace dim 0 (bytes)", "at least " + std::to_string(needed),
             std::to_string(workspace.extent(0)));
      if (workspace.stride(0) != 1)
        fail(function, "workspace stride 0", "1", std::to_string(workspace.stride(0)));
      place(workspace.data());
      count_ = within(workspace.data() + workspace.extent(0) - begin_, slot_bytes);
      return;
    }
    const auto threads = static_cast<index_t>(std::thread::hardware_concurrency());
    count_ = tasks < 2 ? 1 : within(threads < tasks ? threads : tasks, 1);
    owned_.reset(new std::byte[static_cast<std::size_t>(workspace_bytes(slot_bytes, count_))]);
    place(owned_.get());
  }
  scratch_slots(const scratch_slots&) = delete;
  scratch_slots& operator=(const scratch_slots&) = delete;

  /// Waits where more threads than slots ask: a task never waits for another one, so one ends.
  index_t take() noexcept {
    std::uint64_t used = used_.load(std::memory_order_relaxed);
    for (;;) {
      const int slot = std::countr_one(used);
      if (slot >= count_) {
        std::this_thread::yield();
        used = used_.load(std::memory_order_relaxed);
      } else if (used_.compare_exchange_weak(used, used | (std::uint64_t{1} << slot),
                                             std::memory_order_acquire,
                                             std::memory_order_relaxed)) {
        return slot;
      }
    }
  }
  void give_back(index_t slot) noexcept {
    used_.fetch_and(~(std::uint64_t{1} << slot), std::memory_order_release);
  }
  std::byte* at(index_t slot) const noexcept { return begin_ + slot * slot_bytes_; }
  bool needed() const noexcept { return slot_bytes_ > 0; }

 private:
  static index_t within(index_t bytes, index_t slot_bytes) {
    const index_t slots = bytes / slot_bytes;
    return slots < 1 ? 1 : slots < scratch_limit ? slots : scratch_limit;
  }
  void place(std::byte* memory) {
    const auto beyond = static_cast<index_t>(reinterpret_cast<std::uintptr_t>(memory) %
                                             static_cast<std::uintptr_t>(scratch_alignment));
    begin_ = memory + (beyond == 0 ? 0 : scratch_alignment - beyond);
  }

  index_t slot_bytes_;
  index_t count_ = 0;
  std::byte* begin_ = nullptr;
  std::unique_ptr<std::byte[]> owned_;
  std::atomic<std::uint64_t> used_{0};
};

/// One task's slot, until the end of its scope.
class scratch_slot {
 public:
  explicit scratch_slot(scratch_slots& slots)
      : slots_(slots), slot_(slots.needed() ? slots.take() : -1) {}
  ~scratch_slot() {
    if (slot_ >= 0) slots_.give_back(slot_);
  }
  scratch_slot(const scratch_slot&) = delete;
  scratch_slot& operator=(const scratch_slot&) = delete;

  std::byte* data() const noexcept { return slot_ < 0 ? nullptr : slots_.at(slot_); }

 private:
  scratch_slots& slots_;
  index_t slot_;
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
