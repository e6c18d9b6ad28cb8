// SPDX-License-Identifier: Apache-2.0
// The weights form: softmaxed weights, two heads, one query, three keys.
#include <cstdio>
#include <zerotune/zerotune.hpp>

int main() {
  float data[] = {0.5f, 0.3f, 0.2f,   // head 0
                  0.5f, 0.3f, 0.2f};  // head 1
  // [snippet]
  namespace zt = zerotune;
  const float gammas[] = {1.0f, 2.0f};                         // one per query head
  zt::tensor_view weights(data, {1, 2, 1, 3});                 // [batch, heads, q_len, kv_len]
  zt::initial_token sink(zt::tensor_view(gammas, {2}));
  zt::rescale_weights(weights, sink);                          // in place; head 0 is not touched
  // [/snippet]
  std::printf("%.4f %.4f %.4f | %.4f %.4f %.4f\n", data[0], data[1], data[2], data[3], data[4],
              data[5]);
  const bool right = data[0] == 0.5f && data[3] > 0.6666f && data[3] < 0.6667f;
  return right ? 0 : 1;
}
