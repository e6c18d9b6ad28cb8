// SPDX-License-Identifier: Apache-2.0
// The paper's pseudo-code beside ours: a factor for chosen heads of chosen layers.
#include <cstdio>
#include <zerotune/tuning/gamma_table.hpp>
#include <zerotune/zerotune.hpp>

int main() {
  std::vector<float> data(9 * 4, 0.25f);
  const int layer = 3;
  // [snippet]
  namespace zt = zerotune;
  auto table = zt::gamma_table::from(30, {9, {1, 4}}, 2.0f);   // 30 layers; heads 1 and 4 of 9
  zt::tensor_view weights(data.data(), {1, 9, 1, 4});
  zt::rescale_weights(weights, zt::initial_token{table.row(layer)});
  // [/snippet]
  std::printf("%.3f %.3f\n", weights(0, 0, 0, 0), weights(0, 1, 0, 0));
  return weights(0, 0, 0, 0) == 0.25f && weights(0, 1, 0, 0) == 0.4f ? 0 : 1;
}
