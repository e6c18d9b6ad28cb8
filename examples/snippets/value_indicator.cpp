// SPDX-License-Identifier: Apache-2.0
// The value indicator: a column of V that makes any kernel report the initial token's weight.
#include <cstdio>

#include "problem.hpp"

int main() {
  problem p;
  namespace zt = zerotune;
  zt::tensor_view q(p.q.data(), {1, 4, 6, 8});
  zt::tensor_view k(p.k.data(), {1, 2, 6, 8});
  zt::tensor_view v(p.v.data(), {1, 2, 6, 8});
  std::vector<float> wanted(p.q.size()), v_data(2 * 6 * 9), out_data(4 * 6 * 9);
  zt::initial_token sink(zt::tensor_view(p.gammas.data(), {4}));
  zt::attention(q, k, v, zt::tensor_view(wanted.data(), {1, 4, 6, 8}), zt::causal{} | sink);
  const auto your_attention = [&](auto values, auto out) {
    zt::attention(q, k, values, out, zt::causal{});
  };
  // [snippet]
  zt::tensor_view v_aug(v_data.data(), {1, 2, 6, 9});          // value_dim + 1
  zt::augment_value(v, v_aug, sink);
  your_attention(v_aug, zt::tensor_view(out_data.data(), {1, 4, 6, 9}));
  zt::tensor_view<float, 4> out(out_data.data(), {1, 4, 6, 8}, {216, 54, 9, 1});
  zt::tensor_view<float, 3> mass(out_data.data() + 8, {1, 4, 6}, {216, 54, 9});  // a_0 of each row
  zt::correct_output_by_mass(out, mass, v, zt::causal{} | sink);
  // [/snippet]
  float greatest = 0;
  for (int h = 0; h < 4; ++h)
    for (int i = 0; i < 6; ++i)
      for (int c = 0; c < 8; ++c)
        greatest = std::fmax(greatest, std::fabs(out(0, h, i, c) -
                                                 wanted[static_cast<std::size_t>((h * 6 + i) * 8 + c)]));
  std::printf("difference %.2g\n", greatest);
  return greatest < 1e-5f ? 0 : 1;
}
