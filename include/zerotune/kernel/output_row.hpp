// SPDX-License-Identifier: Apache-2.0
// The output form on one row (layer: kernel): a black box's (o, L) becomes
// o' = o / D + (e^b - 1) e^t / D v_j, L' = L + log D, t = min(0, l_j - L); and the effect of log
// gamma on a loss, a'_0 <dL/do', v_0 - o'>. docs/mathematics.md, sections 2 and 5.
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

/// One head of a black box's output and what it was made of; row i of the output is query i's.
template <element KV, element Out>
struct corrected_head {
  const KV* v;
  index_t v_row, v_stride;
  Out* out;
  index_t out_row, out_stride;
  index_t value_dim;
  double min_d;  ///< rows whose D is below stay as they are

  /// Nothing but rounding is in a D below: a_0 is 1 less a few units in the last place.
  static constexpr double noise = 64 * (sizeof(accumulator_t<Out>) == 8 ? 0x1p-52 : 0x1p-23);
  double least_d() const { return min_d > noise ? min_d : noise; }
};

/// D of a row from the weight a_j of each changed key: 1 + sum (e^{b_j} - 1) a_j.
template <bias_modifier Modifier, class Weight>
double row_divisor(const Modifier& m, const row& r, range changed, const Weight& weight) {
  double d = 1.0;
  for (index_t j = changed.begin; j < changed.end; ++j) {
    const double bias = m.log_bias(r, static_cast<double>(j));
    if (bias != 0.0 && !is_masked(bias)) d += ::expm1(bias) * weight(j);
  }
  return d;
}

/// Corrects row i in place. `weight(j)` is a_j of the unmodified attention; *d gets D.
template <class Backend, element KV, element Out, bias_modifier Modifier, class Weight>
row_status correct_row(const corrected_head<KV, Out>& head, index_t i, const geometry& g,
                       const Modifier& m, const row& r, const Weight& weight, double* d) noexcept {
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
  if (!(*d >= head.least_d())) return row_status::amplified;
  Out* const out = head.out + i * head.out_row;
  for (index_t first = 0; first < head.value_dim; first += 64) {
    const index_t columns = head.value_dim - first < 64 ? head.value_dim - first : 64;
    acc sums[64];
    for (index_t c = 0; c < columns; ++c)
      sums[c] = static_cast<acc>(
          static_cast<accumulator_t<Out>>(out[(first + c) * head.out_stride]) / *d);
    for (index_t j = changed.begin; j < changed.end; ++j) {
      const double bias = m.log_bias(r, static_cast<double>(j));
      if (bias == 0.0 || is_masked(bias)) continue;
      row_ops<Backend, KV>::axpy(static_cast<acc>(::expm1(bias) * weight(j) / *d),
                                 head.v + j * head.v_row + first * head.v_stride, head.v_stride,
                                 sums, columns);
    }
    row_ops<Backend, Out>::store(sums, acc(1), out + first * head.out_stride, head.out_stride,
                                 columns);
  }
  return row_status::corrected;
}

/// The key whose factor, e^b, is all that the modifier does to a row that sees other keys as well;
/// -1 where it is not so.
template <bias_modifier Modifier>
ZEROTUNE_ALWAYS_INLINE index_t only_changed_key(const geometry& g, const Modifier& m, row r,
                                                double* factor) {
  const range seen = seen_keys(g, m, r);
  const range changed = intersect(changed_keys(m, r), seen);
  if (changed.size() != 1 || seen.size() == 1) return -1;
  *factor = weight_factor(m, r, changed.begin);
  return *factor == hidden_factor ? -1 : changed.begin;
}

/// How many rows correct_rows takes at a time: their queries and outputs stay in the L1 cache.
inline constexpr index_t corrected_rows = 32;

/// y = factor y + weight x; may fetch what lies `ahead` of y meanwhile.
template <class Backend, element Out, element KV>
ZEROTUNE_ALWAYS_INLINE void scale_add(Out* y, index_t stride, accumulator_t<Out> factor,
                                      accumulator_t<Out> weight, const KV* x, index_t x_stride,
                                      index_t count, index_t ahead) noexcept {
  using ops = row_ops<Backend, Out>;
  if constexpr (requires { ops::scale_add(y, stride, factor, weight, x, x_stride, count, ahead); })
    ops::scale_add(y, stride, factor, weight, x, x_stride, count, ahead);
  else
    ops::scale_add(y, stride, factor, weight, x, x_stride, count);
}

/// log x in place.
template <class Backend, element T>
void logs(double* x, index_t count) noexcept {
  if constexpr (requires { row_ops<Backend, T>::logs(x, count); })
    row_ops<Backend, T>::logs(x, count);
  else
    for (index_t n = 0; n < count; ++n) x[n] = log_of(x[n]);
}

/// Corrects the rows first, first + 1, ... of which each changes at the key whose value is v, by
/// factors[n]; a[n] is that key's weight.
template <class Backend, element KV, element Out, class Finish>
void replace_rows(const corrected_head<KV, Out>& head, index_t first, index_t rows, const KV* v,
                  const double* factors, const double* a, row_status* status,
                  const Finish& finish) noexcept {
  using acc = accumulator_t<Out>;
  double d[corrected_rows];
  acc inverse[corrected_rows], weight[corrected_rows];
  for (index_t n = 0; n < rows; ++n) {
    const double change = (factors[n] - 1.0) * a[n], divisor = 1.0 + change, one = 1.0 / divisor;
    d[n] = divisor;
    inverse[n] = static_cast<acc>(one);
    weight[n] = static_cast<acc>(change * one);
  }
  for (index_t n = 0; n < rows; ++n) {
    status[n] = d[n] == 1.0              ? row_status::unchanged
                : d[n] >= head.least_d() ? row_status::corrected
                                         : row_status::amplified;
    if (status[n] == row_status::corrected)
      scale_add<Backend>(head.out + (first + n) * head.out_row, head.out_stride, inverse[n],
                         weight[n], v, head.v_stride, head.value_dim, 4 * head.out_row);
    else
      d[n] = 1.0;
  }
  logs<Backend, Out>(d, rows);
  for (index_t n = 0; n < rows; ++n)
    if (status[n] == row_status::corrected) finish(first + n, d[n]);
}

/// Corrects the rows [first, last) of a head in place and writes what became of each to status[0],
/// status[1], ... Rows that change at one and the same key, as all do under initial_token, are
/// taken together.
/// @param origin   where the head's query 0 stands
/// @param weights  weights(i, rows, j, a): a[n] = a_j of row i + n of the unmodified attention
/// @param finish   finish(i, log D) for each corrected row
template <class Backend, element KV, element Out, bias_modifier Modifier, class Weights,
          class Finish>
void correct_rows(const corrected_head<KV, Out>& head, index_t first, index_t last,
                  const geometry& g, const Modifier& m, row origin, const Weights& weights,
                  row_status* status, const Finish& finish) noexcept {
  const auto row_of = [&](index_t i) { return row{origin.batch, origin.head, origin.q_pos + i}; };
  double factors[corrected_rows], a[corrected_rows];
  for (index_t i = first; i < last;) {
    index_t key = -1, rows = 0;
    for (; rows < corrected_rows && i + rows < last; ++rows) {
      const index_t found = only_changed_key(g, m, row_of(i + rows), &factors[rows]);
      if (found < 0 || (rows > 0 && found != key)) break;
      key = found;
    }
    if (rows == 0) {
      double d;
      const auto weight = [&](index_t j) {
        weights(i, index_t(1), j, a);
        return a[0];
      };
      *status = correct_row<Backend>(head, i, g, m, row_of(i), weight, &d);
      if (*status == row_status::corrected) finish(i, log_of(d));
      ++status, ++i;
      continue;
    }
    weights(i, rows, key, a);
    replace_rows<Backend>(head, i, rows, head.v + key * head.v_row, factors, a, status, finish);
    i += rows, status += rows;
  }
}

/// a_j = e^t, t = min(0, scale <q, k_j> - L): the weight of one key from the LSE of its row; 0
/// where the LSE is -infinity.
template <class Backend, element Q, element KV>
double weight_from_lse(const Q* q, index_t q_stride, const KV* k, index_t k_stride,
                       index_t head_dim, double softmax_scale, double softcap, double lse) {
  if (lse < -1e300) return 0.0;  // -infinity: the kernel let the row see nothing
  double logit = softmax_scale *
                 static_cast<double>(row_ops<Backend, KV>::dot(q, q_stride, k, k_stride, head_dim));
  if (softcap > 0.0) logit = softcap * ::tanh(logit / softcap);
  const double t = logit - lse;
  return exp_of(t < 0.0 ? t : 0.0);
}

/// The same for the rows of a block: lse(n) is that of row n, row n of q is q + n * q_row.
template <class Backend, element Q, element KV, class Lse>
void weights_from_lse(const Q* q, index_t q_row, index_t q_stride, const KV* k, index_t k_stride,
                      index_t head_dim, double softmax_scale, double softcap, const Lse& lse,
                      index_t rows, double* weights) {
  using acc = accumulator_t<KV>;
  acc x[corrected_rows];
  if constexpr (requires {
                  row_ops<Backend, Q>::dots(k, k_stride, q, q_row, q_stride, head_dim, acc(1), x,
                                            rows);
                }) {
    if (softcap == 0.0) {
      row_ops<Backend, Q>::dots(k, k_stride, q, q_row, q_stride, head_dim,
                                static_cast<acc>(softmax_scale), x, rows);
      // A weight that is no normal number of acc may still be much once gamma = 1e38 multiplies it.
      constexpr double least = sizeof(acc) == sizeof(float) ? -87.0 : -708.0;
      bool normal = true;
      for (index_t n = 0; n < rows; ++n) {
        const double t = static_cast<double>(x[n]) - lse(n);
        x[n] = static_cast<acc>(t < 0.0 ? t : 0.0);
        normal = normal && is_finite(t) && t > least;
      }
      if (normal) {
        row_ops<Backend, Q>::exp_and_sum(x, acc(0), rows);
        for (index_t n = 0; n < rows; ++n) weights[n] = static_cast<double>(x[n]);
        return;
      }
    }
  }
  for (index_t n = 0; n < rows; ++n)
    weights[n] = weight_from_lse<Backend>(q + n * q_row, q_stride, k, k_stride, head_dim,
                                          softmax_scale, softcap, lse(n));
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
