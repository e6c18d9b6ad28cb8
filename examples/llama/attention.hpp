// SPDX-License-Identifier: Apache-2.0
// The host's attention: identity and initial_token run the kernels that are compiled for every
// instruction set (kernels.hpp); any other modifier runs zerotune::attention as the calling
// translation unit is compiled. All are causal, their queries the last positions of one sequence.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "llama/attention_backend.hpp"
#include "llama/executor_ref.hpp"
#include "llama/kernels.hpp"
#include "llama/matrix.hpp"
#include "zerotune/apply/attention.hpp"
#include "zerotune/apply/attention_backward.hpp"
#include "zerotune/policy/compose.hpp"
#include "zerotune/policy/identity.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"

namespace llama {

/// Memory of attention. It grows to the largest call and is kept; no two calls may use it at once.
struct attention_memory {
  matrix scratch;
  std::vector<float> gammas;  ///< [num_heads]

  /// So many bytes, kept from call to call. The former contents may be gone.
  zerotune::tensor_view<std::byte, 1> bytes(std::int64_t count);
};

/// The plan of every call, for this machine.
const zerotune::attention_plan& attention_plan_here();

/// Runs a checked call of the compiled kernels.
void run_attention(const attention_call& call, attention_memory& memory, executor_ref threads);
void run_attention_backward(const attention_backward_call& call, attention_memory& memory,
                            executor_ref threads);

/// Modifiers that the compiled kernels know.
template <class Modifier>
inline constexpr bool is_compiled = std::is_same_v<Modifier, zerotune::identity> ||
                                    std::is_same_v<Modifier, zerotune::initial_token>;

/// Hands a modifier to the kernels. @throws zerotune::invalid_argument if it does not fit
inline void set_modifier(attention_call&, const zerotune::identity&, attention_memory&) {}
inline void set_modifier(attention_call& call, const zerotune::initial_token& modifier,
                         attention_memory& memory) {
  const std::int64_t num_heads = call.q.extent(1);
  zerotune::check_modifier(
      modifier, "attention",
      zerotune::attention_shape{1, num_heads, call.q.extent(2), call.k.extent(2)});
  memory.gammas.resize(static_cast<std::size_t>(num_heads));
  for (std::int64_t head = 0; head < num_heads; ++head)
    memory.gammas[static_cast<std::size_t>(head)] = modifier.gamma(head);
  call.gammas = memory.gammas.data();
  call.initial_position = modifier.position(0);
}

/// Attention of a sequence's last queries. @throws zerotune::invalid_argument for a modifier that
/// does not fit, before anything is written
template <zerotune::logit_modifier Modifier>
void attend(attention_call call, const Modifier& modifier, attention_memory& memory,
            executor_ref threads) {
  call.plan = attention_plan_here();
  if constexpr (is_compiled<Modifier>) {
    set_modifier(call, modifier, memory);
    run_attention(call, memory, threads);
  } else {
    const auto bytes = memory.bytes(zerotune::attention_workspace_bytes(
        attention_backend{}, call.q, call.k, call.v, call.out, call.plan, threads.num_threads()));
    zerotune::attention(attention_backend{}, call.q, call.k, call.v, call.out,
                        zerotune::compose(modifier, zerotune::causal{}),
                        {.softmax_scale = call.softmax_scale,
                         .lse = call.lse,
                         .plan = call.plan,
                         .workspace = bytes},
                        threads);
  }
}

/// Its gradients, from output and LSE. @throws as attend()
template <zerotune::logit_modifier Modifier>
void attend_backward(attention_backward_call call, const Modifier& modifier,
                     attention_memory& memory, executor_ref threads) {
  attention_call& f = call.forward;
  if constexpr (is_compiled<Modifier>) {
    set_modifier(f, modifier, memory);
    run_attention_backward(call, memory, threads);
  } else {
    const auto bytes = memory.bytes(zerotune::attention_backward_workspace_bytes(
        f.q, f.k, f.v, std::min<std::int64_t>(threads.num_threads(), f.k.extent(1))));
    const zerotune::tensor_view<double, 2> d_log_gamma(call.d_log_gamma, {1, f.q.extent(1)});
    zerotune::attention_backward(attention_backend{}, f.q, f.k, f.v, f.out, f.lse, call.d_out,
                                 call.d_q, call.d_k, call.d_v, d_log_gamma,
                                 zerotune::compose(modifier, zerotune::causal{}),
                                 {.softmax_scale = f.softmax_scale, .workspace = bytes}, threads);
  }
}

}  // namespace llama
