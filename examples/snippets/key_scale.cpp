// SPDX-License-Identifier: Apache-2.0
// The paper's key-state form, with its calibration and the spread of the effective gamma.
#include <cstdio>

#include "problem.hpp"

int main() {
  problem p;
  namespace zt = zerotune;
  zt::tensor_view q(p.q.data(), {1, 4, 6, 8});
  zt::tensor_view k(p.k.data(), {1, 2, 6, 8});
  double mean = 0;
  // [snippet]
  auto factors = zt::calibrate_key_scale(q, k, 1.5f, zt::causal{});  // wanted gamma, on real queries
  zt::key_scale scale{.factors = zt::tensor_view<const float, 1>(factors.data(), {4})};
  for (auto spread : zt::key_scale_spread(q, k, scale, zt::causal{}))
    std::printf("effective gamma %.2f to %.2f\n", spread.least, spread.greatest);
  zt::scale_keys(k, scale, /*num_heads=*/4);                   // once per cached key
  // [/snippet]
  for (int h : {0, 1}) mean += factors[static_cast<std::size_t>(h)];
  return mean != 2.0 && p.k[0] != problem::wave(2, 0.53f)[1] ? 0 : 1;
}
