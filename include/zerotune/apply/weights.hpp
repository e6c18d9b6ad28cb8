// SPDX-License-Identifier: Apache-2.0
// The weights form (layer: apply): rescale softmaxed weights and renormalise the row. Exact;
// arXiv 2505.11739, section 3.
#pragma once

#include "zerotune/apply/rows.hpp"
#include "zerotune/kernel/weights_row.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

/// Multiplies each weight by exp of its bias (the initial token's by gamma) and renormalises its
/// row, in place; the row keeps its own sum. Rows and heads that the modifier does not touch, and
/// keys that its masks hide, are not written.
///
/// @param weights   [batch, num_heads, q_len, kv_len] after softmax; leading dimensions of extent 1
///                  may be left out. Any strides, but each element has its own place
/// @param modifier  any bias_modifier, e.g. initial_token{gammas} or causal{} | initial_token{...}
/// @param options   where the queries and the sequences' ends are
/// @param executor  runs blocks of rows; the result does not depend on it
/// @throws invalid_argument for a shape, stride, alignment, option or gamma that does not fit,
///         before anything is written
/// Costs one read and one write of the selected heads; the causal half is skipped if the modifier
/// contains causal.
template <class Backend, element T, std::size_t Rank, bias_modifier Modifier,
          impl::executor_reference Executor = serial_executor>
  requires(Rank >= 2 && Rank <= 4)
void rescale_weights(Backend, const tensor_view<T, Rank>& weights, const Modifier& modifier,
                     const sequence_options& options = {}, Executor&& executor = {}) {
  impl::require_kernel<Backend, form::weights, T>();
  const auto rows = impl::with_leading_ones(weights);
  const attention_shape shape{rows.extent(0), rows.extent(1), rows.extent(2), rows.extent(3)};
  impl::check_in_place("rescale_weights", "weights", weights, options);
  const geometry g = impl::resolve("rescale_weights", shape, options);
  check_modifier(modifier, "rescale_weights", shape);
  if (rows.empty()) return;
  // Short rows are near by the time they are wanted: fetching them would only take their place.
  constexpr index_t short_row = 2048 / static_cast<index_t>(sizeof(T));
  const index_t row_step = shape.kv_len < short_row ? 0 : rows.stride(2);
  impl::for_rows(executor, rows, g, [&](T* data, const row& r) {
    impl::rescale_row<Backend>(data, rows.stride(3), g, modifier, r, row_step);
  });
}

/// The same on the scalar back end.
template <element T, std::size_t Rank, bias_modifier Modifier,
          impl::executor_reference Executor = serial_executor>
  requires(Rank >= 2 && Rank <= 4)
void rescale_weights(const tensor_view<T, Rank>& weights, const Modifier& modifier,
                     const sequence_options& options = {}, Executor&& executor = {}) {
  rescale_weights(backend::scalar{}, weights, modifier, options, executor);
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
