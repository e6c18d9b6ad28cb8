// SPDX-License-Identifier: Apache-2.0
// How a row of attention answers to gamma (layer: analysis): the initial token's weight and the
// entropy for every gamma at once, from one pass without weights stored. With S_rest the sum of the
// other weights and H_rest their own entropy, a'_0 = gamma a_0 / (gamma a_0 + S_rest) and
// H = h(a'_0) + (1 - a'_0) H_rest, largest at a'_0 = 1 / (1 + exp(H_rest)) (docs/mathematics.md).
#pragma once

#include <cmath>
#include <vector>

#include "zerotune/apply/output.hpp"
#include "zerotune/policy/initial_token.hpp"

namespace zerotune {

/// A row of attention as gamma sees it. The weights need no common scale but each other's.
struct sink_row {
  double initial = 0;       ///< weight of the initial token
  double rest = 0;          ///< sum of the others
  double rest_entropy = 0;  ///< of the others among themselves, nats
  index_t keys = 0;         ///< that the row sees
};

inline namespace ZEROTUNE_ABI {

/// Whether gamma can change the row: it sees the initial token and another key.
inline bool answers_gamma(const sink_row& row) { return row.keys > 1 && row.initial > 0; }

/// The initial token's weight under a gamma that the row was not computed with.
/// @pre gamma is finite and >= 0. A row without weight gives 0; one that gamma = 0 would empty
///      stays as it is
inline double initial_weight(const sink_row& row, double gamma = 1) {
  const double scaled = gamma * row.initial, sum = scaled + row.rest;
  if (sum > 0) return scaled / sum;
  return row.initial > 0 ? 1.0 : 0.0;
}

/// The row's entropy under a gamma, nats. @pre as in initial_weight
inline double row_entropy(const sink_row& row, double gamma = 1) {
  const double scaled = gamma * row.initial, sum = scaled + row.rest;
  if (!(sum > 0)) return 0.0;
  const double initial = scaled / sum, rest = row.rest / sum;
  const auto term = [](double share) { return share > 0 ? -share * std::log(share) : 0.0; };
  return term(initial) + term(rest) + rest * row.rest_entropy;
}

/// The gamma of the largest entropy; 1 for a row that no gamma changes.
inline double peak_gamma(const sink_row& row) {
  return answers_gamma(row) ? row.rest / row.initial * std::exp(-row.rest_entropy) : 1.0;
}

/// The rows of an attention, from what it took and its LSE.
///
/// @param q         [batch, num_heads, q_len, head_dim]
/// @param k         [batch, num_kv_heads, kv_len, head_dim]
/// @param lse       [batch, num_heads, q_len], as the attention with `modifier` gave it
/// @param modifier  the attention's modifier, masks included; a gamma in it is part of the weights
/// @param sink      tells the initial token's position; its gammas are not used
/// @param options   scale and lengths of the attention (a softcap belongs to the modifier)
/// @return [batch][num_heads][q_len]
/// @throws invalid_argument for what does not fit
/// Costs one product per visible pair and one exponential and logarithm each.
template <class Backend, class Q, class K, class Lse, logit_modifier Modifier>
std::vector<sink_row> sink_rows(Backend, const tensor_view<Q, 4>& q, const tensor_view<K, 4>& k,
                                const tensor_view<Lse, 3>& lse, const Modifier& modifier,
                                const initial_token& sink, const output_options& options = {}) {
  constexpr const char* function = "sink_rows";
  using kv_type = impl::plain<K>;
  const attention_shape shape = impl::check_qkv(function, q, k, k);
  impl::check_memory(function, "lse", lse);
  impl::check_row_shape(function, "lse", lse, shape);
  impl::check_scale(function, options.softmax_scale);
  const geometry g = impl::resolve(function, shape, {options.kv_lengths, options.q_starts});
  sink.check_positions(function, shape);
  check_modifier(modifier, function, shape);
  const double scale = impl::resolve_scale(options.softmax_scale, q.extent(3));
  const index_t group_size = shape.num_heads / k.extent(1);
  std::vector<sink_row> rows;
  rows.reserve(static_cast<std::size_t>(shape.batch * shape.num_heads * shape.q_len));
  for (index_t b = 0; b < shape.batch; ++b)
    for (index_t h = 0; h < shape.num_heads; ++h)
      for (index_t i = 0; i < shape.q_len; ++i) {
        const row r = g.at(b, h, i);
        const range seen = impl::seen_keys(g, modifier, r);
        const bool unmodified = impl::ignores_zero_gamma(modifier, r, seen);
        const double row_lse = static_cast<double>(lse(b, h, i));
        sink_row result;
        result.keys = seen.size();
        double sum_a_log_a = 0;
        for (index_t j = seen.begin; j < seen.end; ++j) {
          const double logit =
              scale * static_cast<double>(row_ops<Backend, kv_type>::dot(
                          static_cast<const impl::plain<Q>*>(q.pointer(b, h, i, 0)), q.stride(3),
                          static_cast<const kv_type*>(k.pointer(b, h / group_size, j, 0)),
                          k.stride(3), q.extent(3)));
          const double position = static_cast<double>(j);
          const double modified =
              unmodified && impl::is_zero_gamma(impl::bias_part(modifier, r, position))
                  ? impl::transform_part(modifier, r, position, logit)
                  : apply_to_logit(modifier, r, position, logit);
          const double log_weight = modified - row_lse;
          const double weight = std::exp(log_weight);
          if (!(weight > 0)) continue;
          if (j == sink.position(b)) {
            result.initial = weight;
            continue;
          }
          result.rest += weight;
          sum_a_log_a += weight * log_weight;
        }
        // -sum p log p of p = a / S is log S - (sum a log a) / S.
        if (result.rest > 0)
          result.rest_entropy = std::log(result.rest) - sum_a_log_a / result.rest;
        if (result.rest_entropy < 0) result.rest_entropy = 0;  // of one key, by rounding
        rows.push_back(result);
      }
  return rows;
}
template <class Q, class K, class Lse, logit_modifier Modifier>
std::vector<sink_row> sink_rows(const tensor_view<Q, 4>& q, const tensor_view<K, 4>& k,
                                const tensor_view<Lse, 3>& lse, const Modifier& modifier,
                                const initial_token& sink, const output_options& options = {}) {
  return sink_rows(backend::scalar{}, q, k, lse, modifier, sink, options);
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
