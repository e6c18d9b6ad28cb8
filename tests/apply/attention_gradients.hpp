// SPDX-License-Identifier: Apache-2.0
// Gradients of attention for the tests of attention_backward: the formula on whole matrices, and
// central differences of the oracle's forward pass. Nothing of the library's kernels.
#pragma once

#include <cmath>
#include <functional>
#include <vector>

#include "oracle/oracle.hpp"
#include "support/tolerance.hpp"

namespace test {

/// dL/dq, dL/dk, dL/dv as the tensors lie, and dL/d log gamma [batch, num_heads].
struct gradients {
  std::vector<double> q, k, v, log_gamma;
};

/// The derivative of the transforms by the logit that goes in; empty: that of the rules' softcap.
using slope_of = std::function<double(double)>;

/// The formula for L = sum(out * d_out). `initial` is the initial token's position. `out` is the
/// output that the backward pass is given, in its element type; empty: the exact one. `store`
/// rounds what a plain implementation would keep in its element type (weights and gradients).
inline gradients gradients_by_formula(
    const oracle::problem& p, const std::vector<double>& d_out,
    const std::function<index_t(index_t)>& initial, const std::vector<double>& out = {},
    const std::function<double(double)>& store = [](double x) { return x; },
    const slope_of& slope = {}) {
  oracle::result r = oracle::attend(p);
  if (!out.empty()) r.out = out;
  gradients g{std::vector<double>(p.q.size()), std::vector<double>(p.k.size()),
              std::vector<double>(p.v.size()),
              std::vector<double>(static_cast<std::size_t>(p.batch * p.num_heads))};
  const auto dim = static_cast<std::size_t>(p.head_dim);
  const auto width = static_cast<std::size_t>(p.value_dim);
  const auto keys = static_cast<std::size_t>(p.kv_len);
  for (index_t b = 0; b < p.batch; ++b)
    for (index_t h = 0; h < p.num_heads; ++h)
      for (index_t i = 0; i < p.q_len; ++i) {
        const std::size_t row = p.row(b, h, i);
        double delta = 0;
        for (std::size_t c = 0; c < width; ++c)
          delta += d_out[row * width + c] * r.out[row * width + c];
        index_t seen = 0;
        for (std::size_t j = 0; j < keys; ++j) seen += r.logits[row * keys + j] > -oracle::infinity;
        for (index_t j = 0; j < p.length(b); ++j) {
          const double weight = store(r.weights[row * keys + static_cast<std::size_t>(j)]);
          if (weight == 0.0) continue;
          const std::size_t key = p.key(b, h, j, p.head_dim), value = p.key(b, h, j, p.value_dim);
          double along = 0, product = 0;
          for (std::size_t c = 0; c < width; ++c) {
            along += d_out[row * width + c] * p.v[value + c];
            g.v[value + c] += weight * d_out[row * width + c];
          }
          for (std::size_t c = 0; c < dim; ++c) product += p.q[row * dim + c] * p.k[key + c];
          product *= p.scale;
          double d_logit = seen == 1 ? 0.0 : store(weight * (along - delta));
          const double factor = p.rule.factor ? p.rule.factor({b, h, p.start(b) + i, j}) : 1.0;
          if (j == initial(b) && factor != 0)
            g.log_gamma[static_cast<std::size_t>(b * p.num_heads + h)] += d_logit;
          if (slope) {
            d_logit *= slope(product);
          } else if (p.rule.softcap > 0) {
            const double t = std::tanh(product / p.rule.softcap);
            d_logit *= 1 - t * t;
          }
          for (std::size_t c = 0; c < dim; ++c) {
            g.q[row * dim + c] += p.scale * d_logit * p.k[key + c];
            g.k[key + c] += p.scale * d_logit * p.q[row * dim + c];
          }
        }
      }
  return g;
}

/// dL/dx by central differences of fourth order in each element of one of the problem's tensors.
inline std::vector<double> gradient_by_differences(oracle::problem p,
                                                   std::vector<double> oracle::problem::*tensor,
                                                   const std::vector<double>& d_out) {
  constexpr double step = 1e-3;
  std::vector<double>& x = p.*tensor;
  std::vector<double> gradient(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double here = x[i];
    const auto loss = [&](double at) {
      x[i] = at;
      const oracle::result r = oracle::attend(p);
      double sum = 0;
      for (std::size_t n = 0; n < r.out.size(); ++n) sum += r.out[n] * d_out[n];
      return sum;
    };
    const double near = loss(here + step) - loss(here - step);
    const double far = loss(here + 2 * step) - loss(here - 2 * step);
    gradient[i] = (8 * near - far) / (12 * step);
    x[i] = here;
  }
  return gradient;
}

}  // namespace test
