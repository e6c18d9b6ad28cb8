// SPDX-License-Identifier: Apache-2.0
// The one comparison of results with a float64 reference (docs/design.md, section 6):
// max err <= 2 max err(naive, same type) + slack, and nmse <= a bound per type.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "oracle/oracle.hpp"
#include "support/tensor.hpp"

namespace test {

/// Bounds of an element type. `slack` lets a kernel sum in another order than the naive one where
/// that one happens to be exact; `nmse` is the normalised mean squared error that the storage
/// rounding alone stays well below (design.md, section 6).
template <class T>
struct tolerance;
template <>
struct tolerance<float> {
  static constexpr double slack = 1e-5, nmse = 1e-7;
};
template <>
struct tolerance<float16> {
  static constexpr double slack = 1e-5, nmse = 5e-5;
};
template <>
struct tolerance<bfloat16> {
  static constexpr double slack = 1e-5, nmse = 5e-3;
};
/// Double accumulates in double: a result that went through float fails here (float's rounding
/// alone is 6e-8), sums of a few hundred terms near 1 stay below.
template <>
struct tolerance<double> {
  static constexpr double slack = 1e-12, nmse = 1e-22;
};

/// Largest difference; infinite if one is NaN or if infinities differ.
inline double max_error(const std::vector<double>& actual, const std::vector<double>& expected) {
  if (actual.size() != expected.size()) return oracle::infinity;
  double greatest = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (actual[i] == expected[i]) continue;  // infinities too
    if (std::isnan(actual[i]) && std::isnan(expected[i])) continue;
    const double error = std::abs(actual[i] - expected[i]);
    greatest = std::isfinite(error) ? std::max(greatest, error) : oracle::infinity;
  }
  return greatest;
}

inline double normalised_error(const std::vector<double>& actual,
                               const std::vector<double>& expected) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (!std::isfinite(expected[i])) continue;
    error += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return norm > 0 ? error / norm : error;
}

/// The bound of design.md for results of element type T. `naive_error` is the largest error of the
/// same computation done plainly with every tensor stored in T.
template <class T>
::testing::AssertionResult close(const std::vector<double>& actual,
                                 const std::vector<double>& expected, double naive_error) {
  const double bound = 2 * naive_error + tolerance<T>::slack;
  const double error = max_error(actual, expected);
  const double nmse = normalised_error(actual, expected);
  if (std::isfinite(bound) && error <= bound && nmse <= tolerance<T>::nmse)
    return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "max error " << error << " (bound " << bound << "), nmse "
                                       << nmse << " (bound " << tolerance<T>::nmse << ")";
}

/// The same, for the result of the naive computation.
template <class T>
::testing::AssertionResult close(const std::vector<double>& actual,
                                 const std::vector<double>& expected,
                                 const std::vector<double>& naive) {
  return close<T>(actual, expected, max_error(naive, expected));
}

/// Rounds to T and back: what storing a number does to it.
template <class T>
double stored(double value) {
  return to_double(from_double<T>(value));
}

/// Attention done plainly with logits, weights and output stored in T and sums in the accumulator.
template <class T>
oracle::result naive_attention(const oracle::problem& p) {
  using acc = zerotune::accumulator_t<T>;
  oracle::result r;
  const auto rows = static_cast<std::size_t>(p.batch * p.num_heads * p.q_len);
  const auto keys = static_cast<std::size_t>(p.kv_len);
  const auto dim = static_cast<std::size_t>(p.head_dim);
  const auto width = static_cast<std::size_t>(p.value_dim);
  r.weights.assign(rows * keys, 0.0);
  r.out.assign(rows * width, 0.0);
  r.lse.assign(rows, -oracle::infinity);
  for (index_t b = 0; b < p.batch; ++b)
    for (index_t h = 0; h < p.num_heads; ++h)
      for (index_t i = 0; i < p.q_len; ++i) {
        const std::size_t row = p.row(b, h, i);
        std::vector<double> logits(keys, -oracle::infinity), factors(keys, 1.0);
        for (index_t j = 0; j < p.length(b); ++j) {
          const oracle::position at{b, h, p.start(b) + i, j};
          if (p.rule.hidden && p.rule.hidden(at)) continue;
          acc sum = 0;
          for (std::size_t c = 0; c < dim; ++c)
            sum += static_cast<acc>(p.q[row * dim + c]) *
                   static_cast<acc>(p.k[p.key(b, h, j, p.head_dim) + c]);
          double logit = stored<T>(static_cast<double>(sum * static_cast<acc>(p.scale)));
          if (p.rule.softcap > 0)
            logit = stored<T>(p.rule.softcap * std::tanh(logit / p.rule.softcap));
          if (p.rule.bias) logit = stored<T>(logit + p.rule.bias(at));
          logits[static_cast<std::size_t>(j)] = logit;
          if (p.rule.factor) factors[static_cast<std::size_t>(j)] = p.rule.factor(at);
        }
        double* const weights = r.weights.data() + row * keys;
        r.lse[row] = stored<acc>(oracle::softmax(logits, factors, weights));
        std::vector<acc> sums(width, acc(0));
        for (std::size_t j = 0; j < keys; ++j) {
          weights[j] = stored<T>(weights[j]);
          if (weights[j] == 0.0) continue;
          const std::size_t value = p.key(b, h, static_cast<index_t>(j), p.value_dim);
          for (std::size_t c = 0; c < width; ++c)
            sums[c] += static_cast<acc>(weights[j]) * static_cast<acc>(p.v[value + c]);
        }
        for (std::size_t c = 0; c < width; ++c)
          r.out[row * width + c] = stored<T>(static_cast<double>(sums[c]));
      }
  return r;
}

}  // namespace test
