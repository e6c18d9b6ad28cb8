// SPDX-License-Identifier: Apache-2.0
// The logits form: log gamma on one logit of each row, before your softmax.
#include <cmath>
#include <cstdio>
#include <zerotune/zerotune.hpp>

int main() {
  float data[] = {0.25f, -1.0f, 0.5f, 2.0f, 0.0f, 1.0f};
  // [snippet]
  namespace zt = zerotune;
  zt::tensor_view logits(data, {1, 2, 1, 3});                  // scaled, not yet softmaxed
  zt::bias_logits(logits, zt::initial_token{2.0f});            // gamma = 2 on every head
  // your softmax
  // [/snippet]
  std::printf("%.4f %.4f\n", data[0], data[3]);
  return std::abs(data[0] - (0.25f + std::log(2.0f))) < 1e-6f && data[1] == -1.0f ? 0 : 1;
}
