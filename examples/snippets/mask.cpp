// SPDX-License-Identifier: Apache-2.0
// The mask form: an additive mask for a kernel that takes one.
#include <cmath>
#include <cstdio>
#include <vector>
#include <zerotune/zerotune.hpp>

int main() {
  const float gammas[] = {1.0f, 2.0f};
  // [snippet]
  namespace zt = zerotune;
  zt::initial_token sink(zt::tensor_view(gammas, {2}));
  std::vector<float> data(2 * 3 * 3);
  zt::tensor_view mask(data.data(), {1, 2, 3, 3});             // [batch, heads, q_len, kv_len]
  zt::fill_mask(mask, zt::causal{} | sink);                    // log gamma, 0 and -inf
  // your_attention(q, k, v, mask)
  // [/snippet]
  std::printf("%g %g %g\n", mask(0, 1, 2, 0), mask(0, 1, 2, 1), mask(0, 1, 0, 1));
  return std::abs(mask(0, 1, 2, 0) - std::log(2.0f)) < 1e-6f && std::isinf(mask(0, 1, 0, 1)) ? 0
                                                                                             : 1;
}
