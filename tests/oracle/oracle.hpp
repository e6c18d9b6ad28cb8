// SPDX-License-Identifier: Apache-2.0
// The oracle: attention as the formula reads, on whole matrices, in double, with nothing of the
// library. A gamma multiplies exp(logit): the library's bias of log gamma appears nowhere.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

namespace oracle {

using index = std::int64_t;
inline constexpr double infinity = std::numeric_limits<double>::infinity();

/// One key seen from one query; positions are logical.
struct position {
  index batch, head, q_pos, kv_pos;
};

/// What happens to a logit, in the order of the pipeline.
struct rules {
  double softcap = 0;                           ///< 0: none
  std::function<double(position)> bias = {};    ///< added to the logit (ALiBi)
  std::function<double(position)> factor = {};  ///< multiplies exp of the logit; >= 0
  std::function<bool(position)> hidden = {};    ///< true: the key does not exist for this query
};

/// Tensors are dense and row-major: q [batch, num_heads, q_len, head_dim], k [batch, num_kv_heads,
/// kv_len, head_dim], v [batch, num_kv_heads, kv_len, value_dim].
struct problem {
  index batch = 1, num_heads = 1, num_kv_heads = 1, q_len = 1, kv_len = 1;
  index head_dim = 1, value_dim = 1;
  std::vector<double> q, k, v;
  double scale = 1;
  rules rule;
  std::vector<index> kv_lengths;  ///< [batch]; empty: kv_len
  std::vector<index> q_starts;    ///< [batch]; empty: the queries are the last positions

  index length(index b) const {
    return kv_lengths.empty() ? kv_len : kv_lengths[static_cast<std::size_t>(b)];
  }
  index start(index b) const {
    return q_starts.empty() ? length(b) - q_len : q_starts[static_cast<std::size_t>(b)];
  }
  std::size_t row(index b, index h, index i) const {
    return static_cast<std::size_t>((b * num_heads + h) * q_len + i);
  }
  /// First element of the key (or value) of width `dim`.
  std::size_t key(index b, index h, index j, index dim) const {
    const index kv_head = h / (num_heads / num_kv_heads);
    return static_cast<std::size_t>(((b * num_kv_heads + kv_head) * kv_len + j) * dim);
  }
};

struct result {
  std::vector<double> logits;   ///< [batch, num_heads, q_len, kv_len]: with bias, without factor
  std::vector<double> weights;  ///< the same shape
  std::vector<double> out;      ///< [batch, num_heads, q_len, value_dim]
  std::vector<double> lse;      ///< [batch, num_heads, q_len]
};

/// Weights of one row from its logits (-inf: hidden) and factors. A row whose visible keys all have
/// the factor 0 stays as if all factors were 1. Returns the LSE.
inline double softmax(const std::vector<double>& logits, std::vector<double> factors,
                      double* weights) {
  bool any_visible = false, any_kept = false, poisoned = false;
  for (std::size_t j = 0; j < logits.size(); ++j) {
    if (logits[j] == -infinity) continue;
    poisoned |= !std::isfinite(logits[j]);
    any_visible = true;
    any_kept |= factors[j] > 0;
  }
  if (!any_kept) factors.assign(logits.size(), 1.0);
  double greatest = -infinity, sum = 0;
  for (std::size_t j = 0; j < logits.size(); ++j)
    if (factors[j] > 0 && logits[j] > greatest) greatest = logits[j];
  for (std::size_t j = 0; j < logits.size(); ++j) {
    const bool kept = logits[j] != -infinity && factors[j] > 0;
    weights[j] = kept ? factors[j] * std::exp(logits[j] - greatest) : 0.0;
    sum += weights[j];
  }
  if (!any_visible) return -infinity;
  const double total = poisoned ? std::numeric_limits<double>::quiet_NaN() : sum;
  for (std::size_t j = 0; j < logits.size(); ++j) weights[j] /= total;
  return greatest + std::log(total);
}

/// The pipeline: scale, softcap, bias, mask (here), then factors and softmax, then values.
inline result attend(const problem& p) {
  result r;
  const std::size_t rows = static_cast<std::size_t>(p.batch * p.num_heads * p.q_len);
  const std::size_t keys = static_cast<std::size_t>(p.kv_len);
  r.logits.assign(rows * keys, -infinity);
  r.weights.assign(rows * keys, 0.0);
  r.out.assign(rows * static_cast<std::size_t>(p.value_dim), 0.0);
  r.lse.assign(rows, -infinity);
  for (index b = 0; b < p.batch; ++b)
    for (index h = 0; h < p.num_heads; ++h)
      for (index i = 0; i < p.q_len; ++i) {
        const std::size_t row = p.row(b, h, i);
        std::vector<double> logits(keys, -infinity), factors(keys, 1.0);
        for (index j = 0; j < p.length(b); ++j) {
          const position at{b, h, p.start(b) + i, j};
          if (p.rule.hidden && p.rule.hidden(at)) continue;
          double logit = 0;
          for (index c = 0; c < p.head_dim; ++c)
            logit += p.q[row * static_cast<std::size_t>(p.head_dim) + static_cast<std::size_t>(c)] *
                     p.k[p.key(b, h, j, p.head_dim) + static_cast<std::size_t>(c)];
          logit *= p.scale;
          if (p.rule.softcap > 0) logit = p.rule.softcap * std::tanh(logit / p.rule.softcap);
          if (p.rule.bias) logit += p.rule.bias(at);
          logits[static_cast<std::size_t>(j)] = logit;
          if (p.rule.factor) factors[static_cast<std::size_t>(j)] = p.rule.factor(at);
        }
        double* const weights = r.weights.data() + row * keys;
        r.lse[row] = softmax(logits, factors, weights);
        for (std::size_t j = 0; j < keys; ++j) r.logits[row * keys + j] = logits[j];
        for (std::size_t j = 0; j < keys; ++j) {
          if (weights[j] == 0.0) continue;  // what has no weight does not exist
          const std::size_t value = p.key(b, h, static_cast<index>(j), p.value_dim);
          for (std::size_t c = 0; c < static_cast<std::size_t>(p.value_dim); ++c)
            r.out[row * static_cast<std::size_t>(p.value_dim) + c] += weights[j] * p.v[value + c];
        }
      }
  return r;
}

/// Weights rescaled as the paper writes it: each weight times its factor, over the row's new sum,
/// times its old one. `weights` is [rows, keys]; factors of hidden keys are to be 1.
inline void rescale(double* weights, const std::vector<double>& factors) {
  double before = 0, after = 0;
  for (std::size_t j = 0; j < factors.size(); ++j) {
    before += weights[j];
    after += weights[j] * factors[j];
  }
  if (after == 0) return;
  for (std::size_t j = 0; j < factors.size(); ++j) weights[j] *= factors[j] * (before / after);
}

/// dL/d log gamma per [batch, head] for L = sum(out * d_out), by the closed form:
/// sum over rows of a'_0 <d_out, v_0 - o'>. `initial` is the position of each initial token.
inline std::vector<double> gradient_by_formula(const problem& p, const std::vector<double>& d_out,
                                               const std::vector<index>& initial) {
  const result r = attend(p);
  std::vector<double> gradient(static_cast<std::size_t>(p.batch * p.num_heads), 0.0);
  const auto width = static_cast<std::size_t>(p.value_dim);
  for (index b = 0; b < p.batch; ++b)
    for (index h = 0; h < p.num_heads; ++h)
      for (index i = 0; i < p.q_len; ++i) {
        const std::size_t row = p.row(b, h, i);
        const index j = initial.empty() ? 0 : initial[static_cast<std::size_t>(b)];
        const double weight =
            r.weights[row * static_cast<std::size_t>(p.kv_len) + static_cast<std::size_t>(j)];
        if (weight == 0.0) continue;
        double along = 0;
        for (std::size_t c = 0; c < width; ++c)
          along += d_out[row * width + c] *
                   (p.v[p.key(b, h, j, p.value_dim) + c] - r.out[row * width + c]);
        gradient[static_cast<std::size_t>(b * p.num_heads + h)] += weight * along;
      }
  return gradient;
}

/// The same by central differences of fourth order in log gamma. `scaled(step)` is the problem with
/// every gamma times exp(step).
inline std::vector<double> gradient_by_differences(const std::function<problem(double)>& scaled,
                                                   const std::vector<double>& d_out) {
  const double step = 1e-3;
  const auto losses = [&](double at) {
    const problem p = scaled(at);
    const result r = attend(p);
    std::vector<double> loss(static_cast<std::size_t>(p.batch * p.num_heads), 0.0);
    const auto per_head = static_cast<std::size_t>(p.q_len * p.value_dim);
    for (std::size_t i = 0; i < r.out.size(); ++i) loss[i / per_head] += r.out[i] * d_out[i];
    return loss;
  };
  const auto far_up = losses(2 * step), up = losses(step);
  const auto down = losses(-step), far_down = losses(-2 * step);
  std::vector<double> gradient(up.size());
  for (std::size_t i = 0; i < up.size(); ++i)
    gradient[i] = (8 * (up[i] - down[i]) - (far_up[i] - far_down[i])) / (12 * step);
  return gradient;
}

}  // namespace oracle
