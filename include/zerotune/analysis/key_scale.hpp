// SPDX-License-Identifier: Apache-2.0
// How far the paper's key-state form is from a gamma (layer: analysis): the effective gamma
// exp((c - 1) softmax_scale q.k_0) of each query, and the factor that meets a wanted gamma in the
// geometric mean over the queries.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "zerotune/apply/keys.hpp"
#include "zerotune/apply/output.hpp"

namespace zerotune {

/// The effective gamma of one query head over the queries that see the initial token.
struct gamma_spread {
  index_t rows = 0;
  double geometric_mean = 1, least = 1, median = 1, greatest = 1;
};

inline namespace ZEROTUNE_ABI {
namespace impl {

/// Logits of the initial token, [num_heads][rows that see it], before the key is scaled.
template <class Q, class K, bias_modifier Masks>
std::vector<std::vector<double>> initial_logits(const char* function, const tensor_view<Q, 4>& q,
                                                const tensor_view<K, 4>& k,
                                                const tensor_view<const index_t, 1>& positions,
                                                const Masks& masks, const output_options& options) {
  const attention_shape shape = check_qkv(function, q, k, k);
  check_positions(function, positions, shape.batch, shape.kv_len);
  check_scale(function, options.softmax_scale);
  check_softcap(function, options.softcap);
  const geometry g = resolve(function, shape, {options.kv_lengths, options.q_starts});
  check_modifier(masks, function, shape);
  const double scale = resolve_scale(options.softmax_scale, q.extent(3));
  const index_t group_size = shape.num_heads / k.extent(1);
  std::vector<std::vector<double>> logits(static_cast<std::size_t>(shape.num_heads));
  for (index_t b = 0; b < shape.batch; ++b)
    for (index_t h = 0; h < shape.num_heads; ++h)
      for (index_t i = 0; i < shape.q_len; ++i) {
        const row r = g.at(b, h, i);
        const index_t initial = positions.data() ? positions(b) : 0;
        if (!seen_keys(g, masks, r).contains(initial)) continue;
        logits[static_cast<std::size_t>(h)].push_back(
            scale * static_cast<double>(row_ops<backend::scalar, plain<K>>::dot(
                        static_cast<const plain<Q>*>(q.pointer(b, h, i, 0)), q.stride(3),
                        static_cast<const plain<K>*>(k.pointer(b, h / group_size, initial, 0)),
                        k.stride(3), q.extent(3))));
      }
  return logits;
}

/// log of the effective gamma: the difference of the (capped) logits.
inline double effective_log_gamma(double logit, double factor, double softcap) {
  if (softcap <= 0.0) return (factor - 1.0) * logit;
  return softcap * (std::tanh(factor * logit / softcap) - std::tanh(logit / softcap));
}

}  // namespace impl

/// The effective gamma that factors give each query head.
///
/// @param q      [batch, num_heads, q_len, head_dim]
/// @param k      [batch, num_kv_heads, kv_len, head_dim], before scale_keys
/// @param scale  the factors and positions
/// @param masks  the host's masks: only rows that see the token count
/// @return [num_heads]
/// @throws invalid_argument for what does not fit
template <class Q, class K, bias_modifier Masks>
std::vector<gamma_spread> key_scale_spread(const tensor_view<Q, 4>& q, const tensor_view<K, 4>& k,
                                           const key_scale& scale, const Masks& masks,
                                           const output_options& options = {}) {
  constexpr const char* function = "key_scale_spread";
  if (scale.factors.data())
    impl::check_extent(function, "factors", scale.factors, 0, "num_heads", q.extent(1));
  const auto logits = impl::initial_logits(function, q, k, scale.positions, masks, options);
  std::vector<gamma_spread> spreads;
  for (std::size_t h = 0; h < logits.size(); ++h) {
    std::vector<double> log_gammas;
    double sum = 0;
    for (const double logit : logits[h]) {
      log_gammas.push_back(
          impl::effective_log_gamma(logit, static_cast<double>(scale.of(static_cast<index_t>(h))),
                                    static_cast<double>(options.softcap)));
      sum += log_gammas.back();
    }
    gamma_spread spread;
    spread.rows = static_cast<index_t>(log_gammas.size());
    if (!log_gammas.empty()) {
      std::sort(log_gammas.begin(), log_gammas.end());
      const std::size_t n = log_gammas.size();
      spread.geometric_mean = std::exp(sum / static_cast<double>(n));
      spread.least = std::exp(log_gammas.front());
      spread.greatest = std::exp(log_gammas.back());
      spread.median = std::exp(0.5 * (log_gammas[(n - 1) / 2] + log_gammas[n / 2]));
    }
    spreads.push_back(spread);
  }
  return spreads;
}

/// The factors whose effective gamma has the wanted geometric mean over the queries of each
/// key-value head's group.
///
/// @param q, k, masks, options  as in key_scale_spread; `k` unscaled
/// @param gammas     [num_heads], > 0; the heads of a group must want the same
/// @param positions  [batch] of the initial tokens, or empty
/// @return [num_heads] factors, equal within a group; 1 where gamma is 1 or no row sees the token
/// @throws invalid_argument for what does not fit, for a group that mixes gammas, and where no
/// factor
///         reaches the gamma (a softcap bounds it; a mean logit of 0 cannot be scaled)
template <class Q, class K, bias_modifier Masks>
std::vector<float> calibrate_key_scale(const tensor_view<Q, 4>& q, const tensor_view<K, 4>& k,
                                       const head_gammas& gammas, const Masks& masks,
                                       const tensor_view<const index_t, 1>& positions = {},
                                       const output_options& options = {}) {
  constexpr const char* function = "calibrate_key_scale";
  gammas.check(function, "calibrate_key_scale", q.extent(1));
  const auto logits = impl::initial_logits(function, q, k, positions, masks, options);
  const index_t num_heads = q.extent(1), group_size = num_heads / k.extent(1);
  const double softcap = static_cast<double>(options.softcap);
  std::vector<float> factors(logits.size(), 1.0f);
  for (index_t first = 0; first < num_heads; first += group_size) {
    const std::string name = "gamma[" + std::to_string(first) + "]";
    std::vector<double> group;
    for (index_t h = first; h < first + group_size; ++h) {
      if (gammas[h] != gammas[first])
        impl::fail(
            function, "gamma[" + std::to_string(h) + "]",
            "one gamma for all heads of key-value head " + std::to_string(first / group_size),
            "different gammas");
      const auto& rows = logits[static_cast<std::size_t>(h)];
      group.insert(group.end(), rows.begin(), rows.end());
    }
    if (gammas[first] == 1.0f || group.empty()) continue;
    if (!(gammas[first] > 0.0f))
      impl::fail(function, name, "a value > 0 (no factor excludes a token)", "0");
    const double wanted = impl::log_gamma<double>(gammas[first]);
    const auto mean_log_gamma = [&](double factor) {
      double sum = 0;
      for (const double logit : group) sum += impl::effective_log_gamma(logit, factor, softcap);
      return sum / static_cast<double>(group.size());
    };
    const double slope = mean_log_gamma(2.0) - mean_log_gamma(1.0);
    double factor = 1.0 + wanted / slope;  // exact without a softcap
    if (softcap > 0.0) {
      double low = 1.0, high = 1.0;  // |factor - 1| doubles until the wanted value is bracketed
      const double direction = (wanted > 0) == (slope > 0) ? 1.0 : -1.0;
      for (double step = 0.125; step <= 1024.0; step *= 2.0) {
        high = 1.0 + direction * step;
        if (std::abs(mean_log_gamma(high)) >= std::abs(wanted)) break;
        low = high;
      }
      for (int i = 0; i < 100; ++i) {
        const double middle = 0.5 * (low + high);
        (std::abs(mean_log_gamma(middle)) < std::abs(wanted) ? low : high) = middle;
      }
      factor = high;
    }
    if (!impl::is_finite(factor) || std::abs(mean_log_gamma(factor) - wanted) > 1e-3)
      impl::fail(function, name, "a gamma that some factor reaches for these queries",
                 std::to_string(gammas[first]));
    for (index_t h = first; h < first + group_size; ++h)
      factors[static_cast<std::size_t>(h)] = static_cast<float>(factor);
  }
  return factors;
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
