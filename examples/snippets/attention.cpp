// SPDX-License-Identifier: Apache-2.0
// Fused attention with the modifier inside, against the mask form written out.
#include <cstdio>

#include "problem.hpp"

int main() {
  problem p;
  std::vector<float> out_data(p.q.size()), lse_data(p.heads * p.length);
  // [snippet]
  namespace zt = zerotune;
  zt::tensor_view q(p.q.data(), {1, 4, 6, 8});                 // [batch, heads, q_len, head_dim]
  zt::tensor_view k(p.k.data(), {1, 2, 6, 8});                 // two key-value heads: GQA
  zt::tensor_view v(p.v.data(), {1, 2, 6, 8});
  zt::tensor_view out(out_data.data(), {1, 4, 6, 8});
  zt::tensor_view lse(lse_data.data(), {1, 4, 6});
  zt::initial_token sink(zt::tensor_view(p.gammas.data(), {4}));
  zt::attention(q, k, v, out, zt::causal{} | sink, {.lse = lse});
  // [/snippet]
  // gamma = 2 is two cells of the initial token: the output is the same with its key and value
  // written twice.
  float score[3] = {}, weight = 0, expected = 0;
  for (int j = 0; j < 2; ++j)
    for (int c = 0; c < 8; ++c) score[j] += q(0, 1, 1, c) * k(0, 0, j, c) / std::sqrt(8.0f);
  for (int j : {0, 0, 1}) {
    weight += std::exp(score[j]);
    expected += std::exp(score[j]) * v(0, 0, j, 0);
  }
  std::printf("%.6f %.6f\n", out(0, 1, 1, 0), expected / weight);
  return std::abs(out(0, 1, 1, 0) - expected / weight) < 1e-5f ? 0 : 1;
}
