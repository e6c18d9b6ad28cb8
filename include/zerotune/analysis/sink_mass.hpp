// SPDX-License-Identifier: Apache-2.0
// Sink mass and entropy of attention (layer: analysis).
#pragma once

#include <cmath>

#include "zerotune/apply/output.hpp"
#include "zerotune/policy/initial_token.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

/// Mean weight on the initial token per head: the sink mass.
///
/// @param weights  [batch, num_heads, q_len, kv_len] after softmax
/// @param mass     [batch, num_heads], overwritten: the mean over the rows that see more than the
///                 initial token (the others would count as 1); 0 without such a row
/// @param sink     tells the initial token's position
/// @throws invalid_argument for what does not fit
template <class T, bias_modifier Masks>
  requires element<impl::plain<T>>
void sink_mass(const tensor_view<T, 4>& weights, const tensor_view<double, 2>& mass,
               const initial_token& sink, const Masks& masks,
               const sequence_options& options = {}) {
  constexpr const char* function = "sink_mass";
  impl::call_tensors tensors(function);
  tensors.read("weights", weights);
  impl::read_lists(tensors, options.kv_lengths, options.q_starts);
  tensors.written("mass", mass);
  const attention_shape shape{weights.extent(0), weights.extent(1), weights.extent(2),
                              weights.extent(3)};
  impl::check_extent(function, "mass", mass, 0, "batch", shape.batch);
  impl::check_extent(function, "mass", mass, 1, "num_heads", shape.num_heads);
  const geometry g = impl::resolve(function, shape, options);
  sink.check_positions(function, shape);
  check_modifier(masks, function, shape);
  for (index_t b = 0; b < shape.batch; ++b)
    for (index_t h = 0; h < shape.num_heads; ++h) {
      double sum = 0;
      index_t count = 0;
      for (index_t i = 0; i < shape.q_len; ++i) {
        const row r = g.at(b, h, i);
        const range seen = impl::seen_keys(g, masks, r);
        const index_t initial = sink.position(b);
        if (!seen.contains(initial) || seen.end - initial < 2) continue;
        sum += static_cast<double>(
            static_cast<accumulator_t<impl::plain<T>>>(weights(b, h, i, initial)));
        ++count;
      }
      mass(b, h) = count ? sum / static_cast<double>(count) : 0.0;
    }
}

/// Entropy in nats of each row of weights: -sum a_j log a_j over the row's own sum.
///
/// @param weights  [batch, num_heads, q_len, kv_len] after softmax
/// @param entropy  [batch, num_heads, q_len], overwritten; 0 for a row without weight
/// @throws invalid_argument for what does not fit
template <class T>
  requires element<impl::plain<T>>
void attention_entropy(const tensor_view<T, 4>& weights, const tensor_view<double, 3>& entropy) {
  constexpr const char* function = "attention_entropy";
  impl::call_tensors tensors(function);
  tensors.read("weights", weights);
  tensors.written("entropy", entropy);
  impl::check_extent(function, "entropy", entropy, 0, "batch", weights.extent(0));
  impl::check_extent(function, "entropy", entropy, 1, "num_heads", weights.extent(1));
  impl::check_extent(function, "entropy", entropy, 2, "q_len", weights.extent(2));
  for (index_t b = 0; b < weights.extent(0); ++b)
    for (index_t h = 0; h < weights.extent(1); ++h)
      for (index_t i = 0; i < weights.extent(2); ++i) {
        double sum = 0, sum_a_log_a = 0;
        for (index_t j = 0; j < weights.extent(3); ++j) {
          const double a =
              static_cast<double>(static_cast<accumulator_t<impl::plain<T>>>(weights(b, h, i, j)));
          sum += a;
          if (a > 0) sum_a_log_a += a * std::log(a);
        }
        entropy(b, h, i) = sum > 0 ? std::log(sum) - sum_a_log_a / sum : 0.0;
      }
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
