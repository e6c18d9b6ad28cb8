// SPDX-License-Identifier: Apache-2.0
// The logits form (layer: apply): l_0 += log gamma before softmax. Exact; docs/mathematics.md,
// section 2.
#pragma once

#include "zerotune/apply/rows.hpp"
#include "zerotune/kernel/logits_row.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

/// Applies the modifier to logits before their softmax, in place: transforms, then biases
/// (the initial token gets log gamma), then -inf where its masks hide a key.
///
/// @param logits    [batch, num_heads, q_len, kv_len], scaled; leading dimensions of extent 1 may
/// be
///                  left out. Any strides, but each element has its own place. -inf (or the lowest
///                  finite value) marks a key that the host has hidden; it stays hidden
/// @param modifier  any logit_modifier
/// @param options   where the queries and the sequences' ends are
/// @param executor  runs blocks of rows; the result does not depend on it
/// @throws invalid_argument for a shape, stride, alignment, option or gamma that does not fit,
///         before anything is written
/// Costs one number a row for initial_token. gamma = 0 adds -1e30 (float16: -6e4), and nothing in a
/// row that sees no other key.
template <class Backend, element T, std::size_t Rank, logit_modifier Modifier,
          impl::executor_reference Executor = serial_executor>
  requires(Rank >= 2 && Rank <= 4)
void bias_logits(Backend, const tensor_view<T, Rank>& logits, const Modifier& modifier,
                 const sequence_options& options = {}, Executor&& executor = {}) {
  impl::require_kernel<Backend, form::logits, T>();
  const auto rows = impl::with_leading_ones(logits);
  const attention_shape shape{rows.extent(0), rows.extent(1), rows.extent(2), rows.extent(3)};
  impl::check_in_place("bias_logits", "logits", logits, options);
  const geometry g = impl::resolve("bias_logits", shape, options);
  check_modifier(modifier, "bias_logits", shape);
  if (rows.empty()) return;
  impl::for_rows(executor, rows, g, [&](T* data, const row& r) {
    impl::bias_row<Backend>(data, rows.stride(3), g, modifier, r);
  });
}

/// The same on the scalar back end.
template <element T, std::size_t Rank, logit_modifier Modifier,
          impl::executor_reference Executor = serial_executor>
  requires(Rank >= 2 && Rank <= 4)
void bias_logits(const tensor_view<T, Rank>& logits, const Modifier& modifier,
                 const sequence_options& options = {}, Executor&& executor = {}) {
  bias_logits(backend::scalar{}, logits, modifier, options, executor);
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
