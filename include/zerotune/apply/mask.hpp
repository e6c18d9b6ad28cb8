// SPDX-License-Identifier: Apache-2.0
// The mask form (layer: apply): an additive mask with log gamma at the initial token, for kernels
// that take one. Exact; docs/mathematics.md, section 2.
#pragma once

#include "zerotune/apply/rows.hpp"
#include "zerotune/kernel/logits_row.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

/// Writes the additive mask of the modifier: the sum of its biases per key, -inf where a key is
/// hidden, 0 elsewhere. Every element is overwritten.
///
/// @param mask      [batch, num_heads, q_len, kv_len]; leading dimensions of extent 1 may be left
///                  out, so a modifier without per-head gammas needs no head dimension
/// @param modifier  any bias_modifier, masks included: causal{} | initial_token{gammas}
/// @param options   where the queries and the sequences' ends are
/// @param executor  runs blocks of rows; the result does not depend on it
/// @throws invalid_argument for a shape, stride, alignment, option or gamma that does not fit,
///         before anything is written
/// Costs one write of the mask, and what a dense mask costs the kernel that takes it. A row in
/// which gamma = 0 would exclude all that it sees stays at 0.
template <class Backend, element T, std::size_t Rank, bias_modifier Modifier,
          impl::executor_reference Executor = serial_executor>
  requires(Rank >= 2 && Rank <= 4)
void fill_mask(Backend, const tensor_view<T, Rank>& mask, const Modifier& modifier,
               const sequence_options& options = {}, Executor&& executor = {}) {
  impl::require_kernel<Backend, form::mask, T>();
  const auto rows = impl::with_leading_ones(mask);
  const attention_shape shape{rows.extent(0), rows.extent(1), rows.extent(2), rows.extent(3)};
  impl::check_in_place("fill_mask", "mask", mask, options);
  const geometry g = impl::resolve("fill_mask", shape, options);
  check_modifier(modifier, "fill_mask", shape);
  if (rows.empty()) return;
  impl::for_rows(executor, rows, g, [&](T* data, const row& r) {
    impl::fill_mask_row<Backend>(data, rows.stride(3), g, modifier, r);
  });
}

/// The same on the scalar back end.
template <element T, std::size_t Rank, bias_modifier Modifier,
          impl::executor_reference Executor = serial_executor>
  requires(Rank >= 2 && Rank <= 4)
void fill_mask(const tensor_view<T, Rank>& mask, const Modifier& modifier,
               const sequence_options& options = {}, Executor&& executor = {}) {
  fill_mask(backend::scalar{}, mask, modifier, options, executor);
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
