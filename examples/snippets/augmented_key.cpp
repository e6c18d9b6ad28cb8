// SPDX-License-Identifier: Apache-2.0
// The augmented key: one more coordinate of q and k carries log gamma through any fused kernel.
#include <cstdio>

#include "problem.hpp"

int main() {
  problem p;
  namespace zt = zerotune;
  zt::tensor_view q(p.q.data(), {1, 4, 6, 8});
  zt::tensor_view k(p.k.data(), {1, 2, 6, 8});
  zt::tensor_view v(p.v.data(), {1, 2, 6, 8});
  std::vector<float> out_data(p.q.size()), wanted(p.q.size());
  std::vector<float> q_data(4 * 6 * 9), k_data(2 * 6 * 9);
  zt::tensor_view out(out_data.data(), {1, 4, 6, 8});
  zt::initial_token sink(zt::tensor_view(p.gammas.data(), {4}));
  zt::attention(q, k, v, zt::tensor_view(wanted.data(), {1, 4, 6, 8}), zt::causal{} | sink);
  const float scale = 1.0f / std::sqrt(8.0f);
  const auto your_attention = [&](auto q_aug, auto k_aug, float softmax_scale) {
    zt::attention(q_aug, k_aug, v, out, zt::causal{}, {.softmax_scale = softmax_scale});
  };
  // [snippet]
  zt::tensor_view q_aug(q_data.data(), {1, 4, 6, 9});          // head_dim + 1 (16-bit types: + 2)
  zt::tensor_view k_aug(k_data.data(), {1, 2, 6, 9});
  zt::augment_query(q, q_aug, zt::causal{} | sink, /*kv_len=*/6, scale);
  zt::augment_key(k, k_aug, sink);
  your_attention(q_aug, k_aug, scale);                         // give it the scale explicitly
  // [/snippet]
  std::printf("difference %.2g\n", difference(out_data, wanted));
  return difference(out_data, wanted) < 1e-5f ? 0 : 1;
}
