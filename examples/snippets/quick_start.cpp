// SPDX-License-Identifier: Apache-2.0
// A whole program: softmaxed weights of two heads, one of them rescaled.
// [snippet]
#include <cstdio>
#include <vector>
#include <zerotune/zerotune.hpp>

int main() {
  // One query of two heads over three keys: [batch, heads, q_len, kv_len], softmaxed by your model.
  std::vector<float> weights = {0.6f, 0.3f, 0.1f, 0.6f, 0.3f, 0.1f};
  const std::vector<float> gammas = {1.0f, 0.5f};  // one per head; 1 changes no bit

  namespace zt = zerotune;
  zt::rescale_weights(zt::tensor_view(weights.data(), {1, 2, 1, 3}),
                      zt::initial_token(zt::tensor_view(gammas.data(), {2})));

  for (std::size_t head = 0; head < 2; ++head)
    std::printf("%.3f %.3f %.3f\n", weights[3 * head], weights[3 * head + 1],
                weights[3 * head + 2]);
  // 0.600 0.300 0.100
  // 0.429 0.429 0.143     0.6 became 0.3, and the row was divided by its sum, 0.7
}
// [/snippet]
