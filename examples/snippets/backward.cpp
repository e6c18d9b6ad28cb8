// SPDX-License-Identifier: Apache-2.0
// The gradients of a loss through attention, from its output and LSE.
#include <cstdio>
#include <zerotune/kernel/simd/simd.hpp>

#include "problem.hpp"

int main() {
  problem p;
  namespace zt = zerotune;
  std::vector<float> out_data(p.q.size()), lse_data(4 * 6), d_q_data(p.q.size()),
      d_k_data(p.k.size()), d_v_data(p.v.size()), d_gamma_data(4);
  std::vector<float> d_out_data = problem::wave(4, 0.29f);  // dL/dout for L = sum d_out out
  zt::tensor_view q(p.q.data(), {1, 4, 6, 8});
  zt::tensor_view k(p.k.data(), {1, 2, 6, 8});
  zt::tensor_view v(p.v.data(), {1, 2, 6, 8});
  zt::tensor_view out(out_data.data(), {1, 4, 6, 8});
  zt::tensor_view d_out(d_out_data.data(), {1, 4, 6, 8});
  zt::initial_token sink(zt::tensor_view(p.gammas.data(), {4}));
  // [backward]
  zt::tensor_view lse(lse_data.data(), {1, 4, 6});
  zt::attention(zt::backend::simd<>{}, q, k, v, out, zt::causal{} | sink, {.lse = lse});
  // ... the rest of the model, which gives d_out ...
  zt::tensor_view d_q(d_q_data.data(), {1, 4, 6, 8});
  zt::tensor_view d_k(d_k_data.data(), {1, 2, 6, 8});
  zt::tensor_view d_v(d_v_data.data(), {1, 2, 6, 8});
  zt::tensor_view d_log_gamma(d_gamma_data.data(), {1, 4});    // of each query head
  std::vector<std::byte> memory(static_cast<std::size_t>(
      zt::attention_backward_workspace_bytes(q, k, v, /*threads=*/1)));
  zt::attention_backward(zt::backend::simd<>{}, q, k, v, out, lse, d_out, d_q, d_k, d_v, d_log_gamma,
                         zt::causal{} | sink, {.workspace = zt::view_of(memory)});
  // [/backward]
  const auto loss = [&](int head, float change) {  // with one gamma changed
    std::vector<float> gammas = p.gammas, changed(p.q.size());
    gammas[static_cast<std::size_t>(head)] *= std::exp(change);
    zt::attention(q, k, v, zt::tensor_view(changed.data(), {1, 4, 6, 8}),
                  zt::causal{} | zt::initial_token(zt::tensor_view(gammas.data(), {4})));
    double sum = 0;
    for (std::size_t i = 0; i < changed.size(); ++i)
      sum += static_cast<double>(changed[i]) * static_cast<double>(d_out_data[i]);
    return sum;
  };
  double greatest = 0;
  for (int head = 0; head < 4; ++head) {
    const double slope = (loss(head, 0.01f) - loss(head, -0.01f)) / 0.02;
    greatest = std::fmax(greatest, std::fabs(slope - static_cast<double>(d_log_gamma(0, head))));
  }
  std::printf("difference from central differences %.2g\n", greatest);
  return greatest < 1e-3 ? 0 : 1;
}
