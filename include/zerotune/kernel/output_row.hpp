// SPDX-License-Identifier: Apache-2.0
// The output form on one row (layer: kernel): a black box's (o, L) becomes
// o' = o / D + (e^b - 1) e^t / D v_j, L' = L + log D, t = min(0, l_j - L); and the effect of log
// gamma on a loss, a'_0 <dL/do', v_0 - o'>. docs/mathematics.md, section 2.
#pragma once

#include "zerotune/kernel/geometry.hpp"
#include "zerotune/kernel/kernel.hpp"

namespace zerotune {

/// What became of a row of a black box's output.
enum class row_status : std::uint8_t {
  unchanged,  ///< nothing to correct: gamma = 1, or the row does not see a changed key, or gamma =
              ///< 0 would leave it nothing
  corrected,  ///< output and LSE are those of the modified attention
  amplified,  ///< D < min_d would amplify the errors of o: left as it was, for the host to
              ///< recompute
};

inline namespace ZEROTUNE_ABI {
namespace impl {

/// D of a row from the weight a_j of each changed key: 1 + sum (e^{b_j} - 1) a_j.
template <bias_modifier Modifier, class Weight>
double row_divisor(const Modifier& m, row r, range changed, const Weight& weight) {
  double d = 1.0;
  for (index_t j = changed.begin; j < changed.end; ++j) {
    const double bias = m.log_bias(r, static_cast<double>(j));
    if (bias != 0.0 && !is_masked(bias)) d += ::expm1(bias) * weight(j);
  }
  return d;
}

/// Corrects `out` in place. `weight(j)` is a_j of the unmodified attention; *d gets D.
template <class Backend, element KV, element Out, bias_modifier Modifier, class Weight>
row_status correct_row(const KV* v, index_t v_row, index_t v_stride, Out* out, index_t out_stride,
                       index_t value_dim, double min_d, const geometry& g, const Modifier& m, row r,
                       const Weight& weight, double* d) noexcept {
  using acc = accumulator_t<KV>;
  *d = 1.0;
  const range seen = seen_keys(g, m, r);
  const range changed = intersect(changed_keys(m, r), seen);
  if (changed.empty() || sees_only_excluded(m, r, seen)) return row_status::unchanged;
  if (seen.size() == 1) {  // the output is that key's value under every gamma; its LSE is not
    const double bias = m.log_bias(r, static_cast<double>(seen.begin));
    if (bias == 0.0 || is_masked(bias)) return row_status::unchanged;
    *d = exp_of(bias);
    return row_status::corrected;
  }
  *d = row_divisor(m, r, changed, weight);
  if (*d == 1.0) return row_status::unchanged;
  if (!(*d >= min_d)) return row_status::amplified;
  for (index_t first = 0; first < value_dim; first += 64) {
    const index_t columns = value_dim - first < 64 ? value_dim - first : 64;
    acc sums[64];
    for (index_t c = 0; c < columns; ++c)
      sums[c] =
          static_cast<acc>(static_cast<accumulator_t<Out>>(out[(first + c) * out_stride]) / *d);
    for (index_t j = changed.begin; j < changed.end; ++j) {
      const double bias = m.log_bias(r, static_cast<double>(j));
      if (bias == 0.0 || is_masked(bias)) continue;
      row_ops<Backend, KV>::axpy(static_cast<acc>(::expm1(bias) * weight(j) / *d),
                                 v + j * v_row + first * v_stride, v_stride, sums, columns);
    }
    row_ops<Backend, Out>::store(sums, acc(1), out + first * out_stride, out_stride, columns);
  }
  return row_status::corrected;
}

/// a_j = e^t, t = min(0, scale <q, k_j> - L): the weight of one key from the LSE of its row.
template <class Backend, element Q, element KV>
double weight_from_lse(const Q* q, index_t q_stride, const KV* k, index_t k_stride,
                       index_t head_dim, double softmax_scale, double softcap, double lse) {
  double logit = softmax_scale *
                 static_cast<double>(row_ops<Backend, KV>::dot(q, q_stride, k, k_stride, head_dim));
  if (softcap > 0.0) logit = softcap * ::tanh(logit / softcap);
  const double t = logit - lse;
  return exp_of(t < 0.0 ? t : 0.0);
}

/// dL/d log gamma of one row: a'_0 <dL/do', v_0 - o'>, zero where the row does not see the token.
template <class Backend, element KV, element Out>
double gradient_row(const KV* v0, index_t v_stride, const Out* out, index_t out_stride,
                    const Out* d_out, index_t d_out_stride, index_t value_dim,
                    double modified_weight) noexcept {
  double along_value = 0, along_output = 0;
  for (index_t c = 0; c < value_dim; ++c) {
    const double g = static_cast<double>(static_cast<accumulator_t<Out>>(d_out[c * d_out_stride]));
    along_value += g * static_cast<double>(static_cast<accumulator_t<KV>>(v0[c * v_stride]));
    along_output += g * static_cast<double>(static_cast<accumulator_t<Out>>(out[c * out_stride]));
  }
  return modified_weight * (along_value - along_output);
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
