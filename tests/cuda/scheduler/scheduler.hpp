// SPDX-License-Identifier: Apache-2.0
// Runs kernel bodies on the CPU, one fibre per CUDA thread, and checks what a GPU would not say:
// see tests/cuda/README.md. This interface holds plain data and functions only, so that
// scheduler.cpp can be compiled without -fsanitize=thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace zerotune_test {

/// The order in which runnable threads are taken: results must not depend on it.
enum class order { forward, reverse, random };

class block_scheduler;

/// One memory access of a thread, for the counters.
struct access {
  enum kind : std::uint8_t { global_load, global_store, shared_load, shared_store, matrix_load };
  const void* address;
  int line;  // of the kernel source: one access pattern
  std::uint16_t bytes;
  kind what;
};

/// A CUDA thread. `frame` points at the operands of the collective that it waits in.
struct lane {
  enum state_type : int { running, in_barrier, in_collective, finished };
  block_scheduler* scheduler = nullptr;
  int thread = 0, threads = 0;
  std::int64_t block = 0;
  state_type state = running;
  int line = 0;
  void* frame = nullptr;
  int shared_pieces = 0;
  std::vector<access>* trace = nullptr;
};

/// __syncthreads: every thread of the block, at the same line; orders memory.
void meet_barrier(lane&, int line);
/// A warp's collective: combine() sees the 32 frames. Orders memory only if asked (__syncwarp).
void meet_collective(lane&, void* frame, void (*combine)(void**), int line, bool orders_memory);
/// The next piece of dynamic shared memory: its own allocation, poisoned with NaN.
void* shared_piece(lane&, std::size_t bytes);
/// Does the address lie in a piece of the block's shared memory?
bool is_shared(const lane&, const void* address);

/// What a launch used and did.
struct launch_statistics {
  std::size_t shared_bytes = 0;
  long switches = 0;
};

using kernel_body = void (*)(void* argument, lane&);

/// Runs `blocks` blocks of `threads` threads, one block after the other.
/// @param shared_limit  the dynamic shared memory that the launch asks for; a body that takes more
///                      is an error
/// @param trace  if not null, gets the accesses of the first block, a vector per thread
/// @throws std::logic_error for a divergent barrier or collective, a deadlock, too much shared
///         memory; rethrows what a body throws
launch_statistics run_blocks(std::int64_t blocks, int threads, std::size_t shared_limit,
                             kernel_body body, void* argument, order, unsigned seed,
                             std::vector<std::vector<access>>* trace = nullptr);

}  // namespace zerotune_test
