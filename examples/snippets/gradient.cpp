// SPDX-License-Identifier: Apache-2.0
// The effect of every head on a loss, from one forward and one backward pass of the host.
#include <cstdio>

#include "problem.hpp"

int main() {
  problem p;
  namespace zt = zerotune;
  zt::tensor_view q(p.q.data(), {1, 4, 6, 8});
  zt::tensor_view k(p.k.data(), {1, 2, 6, 8});
  zt::tensor_view v(p.v.data(), {1, 2, 6, 8});
  std::vector<float> out_data(p.q.size()), lse_data(p.heads * p.length);
  zt::tensor_view out(out_data.data(), {1, 4, 6, 8});
  zt::tensor_view lse(lse_data.data(), {1, 4, 6});
  zt::initial_token sink(zt::tensor_view(p.gammas.data(), {4}));
  zt::attention(q, k, v, out, zt::causal{} | sink, {.lse = lse});
  const std::vector<float> d_out_data = out_data;  // dL/dout of L = |out|^2 / 2
  zt::tensor_view d_out(d_out_data.data(), {1, 4, 6, 8});
  // [snippet]
  double effect[4];                                            // dL / d log gamma of each head
  zt::tensor_view gradient(effect, {1, 4});
  zt::gamma_gradient(out, d_out, lse, q, k, v, sink, zt::causal{}, gradient);
  // [/snippet]
  const auto loss = [&](float gamma) {
    std::vector<float> gammas = p.gammas, result(p.q.size());
    gammas[2] = gamma;
    zt::attention(q, k, v, zt::tensor_view(result.data(), {1, 4, 6, 8}),
                  zt::causal{} | zt::initial_token(zt::tensor_view(gammas.data(), {4})));
    double sum = 0;
    for (const float x : result) sum += 0.5 * x * x;
    return sum;
  };
  const double difference_quotient =
      (loss(p.gammas[2] * std::exp(0.01f)) - loss(p.gammas[2] * std::exp(-0.01f))) / 0.02;
  std::printf("%.5f %.5f\n", effect[2], difference_quotient);
  return std::abs(effect[2] - difference_quotient) < 1e-3 ? 0 : 1;
}
