// SPDX-License-Identifier: Apache-2.0
#include "llama/attention.hpp"

#include <algorithm>
#include <cstddef>

#include "zerotune/apply/attention.hpp"
#include "zerotune/apply/scratch.hpp"

namespace llama {
namespace {

namespace zt = zerotune::impl;

/// Calls body(task, scratch) for all tasks of a call.
template <class Body>
void run_tasks(const attention_cut& cut, attention_memory& memory, executor_ref threads,
               const Body& body) {
  const std::int64_t slots = std::min<std::int64_t>(threads.num_threads(), cut.tasks);
  const std::int64_t bytes = zt::workspace_bytes(cut.scratch_bytes, slots);
  zt::scratch_slots scratch("attention",
                            bytes > 0 ? memory.bytes(bytes) : decltype(memory.bytes(0)){},
                            cut.scratch_bytes, cut.tasks);
  threads.parallel_for(cut.tasks, [&](std::int64_t task) {
    const zt::scratch_slot slot(scratch);
    body(task, slot.data());
  });
}

}  // namespace

zerotune::tensor_view<std::byte, 1> attention_memory::bytes(std::int64_t count) {
  constexpr auto size = static_cast<std::int64_t>(sizeof(float));
  scratch.resize(1, (count + size - 1) / size);
  return {reinterpret_cast<std::byte*>(scratch.data()), {count}};
}

const zerotune::attention_plan& attention_plan_here() {
  // kept_bytes stays 0: the weights of a whole model go by between two calls for a layer.
  static const zerotune::attention_plan plan = zerotune::plan_attention();
  return plan;
}

void run_attention(const attention_call& call, attention_memory& memory, executor_ref threads) {
  const attention_kernels& kernels = current_attention_kernels();
  const std::int64_t wanted =
      zerotune::impl::attention_tasks(static_cast<int>(threads.num_threads()));
  run_tasks(kernels.cut(call, wanted), memory, threads, [&](std::int64_t task, std::byte* scratch) {
    kernels.run(call, wanted, task, scratch);
  });
}

void run_attention_backward(const attention_backward_call& call, attention_memory& memory,
                            executor_ref threads) {
  const attention_kernels& kernels = current_attention_kernels();
  run_tasks(
      kernels.cut_backward(call), memory, threads,
      [&](std::int64_t task, std::byte* scratch) { kernels.run_backward(call, task, scratch); });
}

}  // namespace llama
