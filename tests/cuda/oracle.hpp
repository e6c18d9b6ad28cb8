// SPDX-License-Identifier: Apache-2.0
// What the CUDA tests compare with: attention as the formula reads, in double, and a naive one in
// the storage type that says how large errors may be (docs/design.md, section 6). Nothing here
// comes from kernel/ or policy/.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "zerotune/core/types.hpp"

namespace zerotune_test {

template <class T>
std::vector<T> random_values(std::size_t count, unsigned seed, float spread = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> distribution(0.0f, spread);
  std::vector<T> values(count);
  for (T& value : values) value = static_cast<T>(distribution(generator));
  return values;
}

/// One attention: tensors [batch, heads, length, dim], row-major, and what acts on its logits.
struct problem {
  long batch = 1, heads = 1, kv_heads = 1, q_len = 1, kv_len = 1, dim = 64, value_dim = 64;
  double scale = 0;  // 0: 1/sqrt(dim)
  double cap = 0;    // softcap, 0: none
  bool causal = true;
  long window = 0;                       // 0: none
  std::vector<double> gamma;             // per head, empty: 1
  std::vector<long> initial;             // per sequence, empty: 0; keys before are hidden
  std::vector<long> kv_length, q_start;  // per sequence, empty: kv_len and the last positions
  std::function<double(long h, long q, long j)> bias;  // anything else

  double softmax_scale() const { return scale != 0 ? scale : 1 / std::sqrt(double(dim)); }
  long length(long b) const { return kv_length.empty() ? kv_len : kv_length[size_t(b)]; }
  long start(long b) const { return q_start.empty() ? length(b) - q_len : q_start[size_t(b)]; }
  long sink(long b) const { return initial.empty() ? 0 : initial[size_t(b)]; }
  bool sees(long b, long q, long j) const {
    const long p = start(b) + q;
    if (j >= length(b) || (!initial.empty() && j < sink(b))) return false;
    return (!causal || j <= p) && (window == 0 || j > p - window);
  }
};

struct result {
  std::vector<double> out, lse, mass;  // mass: weight of the initial token
};

/// Round: what the naive attention rounds its logits, weights and outputs to.
template <class T, class Real, class Round>
result attend(const problem& p, const std::vector<T>& q, const std::vector<T>& k,
              const std::vector<T>& v, const Round& round) {
  const auto at = [](const std::vector<T>& x, long i) {
    return Real(static_cast<float>(x[static_cast<std::size_t>(i)]));
  };
  result r;
  for (long b = 0; b < p.batch; ++b)
    for (long h = 0; h < p.heads; ++h)
      for (long i = 0; i < p.q_len; ++i) {
        const long g = b * p.kv_heads + h / (p.heads / p.kv_heads);
        std::vector<Real> logits(static_cast<std::size_t>(p.kv_len), -INFINITY);
        long others = 0;
        for (long j = 0; j < p.kv_len; ++j) others += p.sees(b, i, j) && j != p.sink(b);
        Real maximum = -INFINITY;
        bool broken = false;
        for (long j = 0; j < p.kv_len; ++j) {
          if (!p.sees(b, i, j)) continue;
          Real dot = 0;
          for (long d = 0; d < p.dim; ++d)
            dot += at(q, ((b * p.heads + h) * p.q_len + i) * p.dim + d) *
                   at(k, (g * p.kv_len + j) * p.dim + d);
          broken |= !std::isfinite(dot);
          Real x = dot * Real(p.softmax_scale());
          if (p.cap > 0) x = Real(p.cap) * std::tanh(x / Real(p.cap));
          if (p.bias) x += Real(p.bias(h, p.start(b) + i, j));
          if (j == p.sink(b) && !p.gamma.empty()) {
            const double gamma = p.gamma[static_cast<std::size_t>(h)];
            if (gamma > 0)
              x += Real(std::log(gamma));
            else if (others > 0)
              x = -INFINITY;
          }
          logits[static_cast<std::size_t>(j)] = x;
          maximum = std::max(maximum, x);
        }
        Real sum = 0;
        std::vector<Real> weights(logits.size(), 0);
        for (std::size_t j = 0; j < logits.size(); ++j) {
          if (logits[j] == -INFINITY) continue;
          weights[j] = std::exp(logits[j] - maximum);
          sum += weights[j];
        }
        for (Real& w : weights) w = sum > 0 ? Real(round(w / sum)) : Real(0);
        for (long d = 0; d < p.value_dim; ++d) {
          Real o = 0;
          for (long j = 0; j < p.kv_len; ++j)
            if (weights[static_cast<std::size_t>(j)] != 0)
              o += weights[static_cast<std::size_t>(j)] *
                   at(v, (g * p.kv_len + j) * p.value_dim + d);
          r.out.push_back(broken ? NAN : double(round(o)));
        }
        r.lse.push_back(broken ? NAN : sum > 0 ? double(maximum + std::log(sum)) : -INFINITY);
        r.mass.push_back(p.sink(b) < p.kv_len ? double(weights[static_cast<std::size_t>(p.sink(b))])
                                              : 0.0);
      }
  return r;
}

template <class T>
result exact_attention(const problem& p, const std::vector<T>& q, const std::vector<T>& k,
                       const std::vector<T>& v) {
  return attend<T, double>(p, q, k, v, [](double x) { return x; });
}
/// The yardstick: float arithmetic, weights and outputs rounded to T.
template <class T>
result naive_attention(const problem& p, const std::vector<T>& q, const std::vector<T>& k,
                       const std::vector<T>& v) {
  return attend<T, float>(p, q, k, v,
                          [](float x) { return static_cast<float>(static_cast<T>(x)); });
}

struct error_measure {
  double greatest = 0, squares = 0, reference = 0;
  bool broken = false;
  double nmse() const { return reference > 0 ? squares / reference : 0; }
};
/// Errors over the finite values; `broken` if one is NaN or infinite and the other is not the same.
template <class T>
error_measure measure(const std::vector<T>& got, const std::vector<double>& expected) {
  error_measure e;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto x = static_cast<double>(static_cast<zerotune::accumulator_t<T>>(got[i]));
    if (!std::isfinite(expected[i]) || !std::isfinite(x)) {
      const bool same = std::isnan(expected[i]) ? std::isnan(x) : x == expected[i];
      e.broken = e.broken || !same;
      continue;
    }
    const double d = std::abs(x - expected[i]);
    e.greatest = std::max(e.greatest, d);
    e.squares += d * d;
    e.reference += expected[i] * expected[i];
  }
  return e;
}

/// Normalised mean squared error that a type may have (docs/design.md, section 6).
template <class T>
constexpr double nmse_bound = std::is_same_v<T, float>               ? 1e-7
                              : std::is_same_v<T, zerotune::float16> ? 5e-5
                                                                     : 5e-3;

}  // namespace zerotune_test
