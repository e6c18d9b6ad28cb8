// SPDX-License-Identifier: Apache-2.0
// A modifier of one's own: one struct.
#include <cstdio>

#include "problem.hpp"

// [snippet]
struct distance_penalty {
  float slope;
  template <class Batch>
  Batch log_bias(zerotune::row r, Batch kv_pos) const {
    return Batch(-slope) * (Batch(static_cast<float>(r.q_pos)) - kv_pos);
  }
  zerotune::tile_effect effect(int, zerotune::range, zerotune::range) const {
    return zerotune::tile_effect::apply;
  }
};
// [/snippet]
static_assert(zerotune::bias_modifier<distance_penalty>);

int main() {
  problem p;
  namespace zt = zerotune;
  zt::tensor_view q(p.q.data(), {1, 4, 6, 8});
  zt::tensor_view k(p.k.data(), {1, 2, 6, 8});
  zt::tensor_view v(p.v.data(), {1, 2, 6, 8});
  std::vector<float> ours(p.q.size()), theirs(p.q.size());
  zt::attention(q, k, v, zt::tensor_view(ours.data(), {1, 4, 6, 8}),
                zt::causal{} | zt::initial_token{2.0f} | distance_penalty{0.25f});
  const float slopes[] = {0.25f, 0.25f, 0.25f, 0.25f};
  zt::attention(q, k, v, zt::tensor_view(theirs.data(), {1, 4, 6, 8}),
                zt::causal{} | zt::initial_token{2.0f} | zt::alibi{zt::tensor_view(slopes, {4})});
  std::printf("difference from alibi %.2g\n", difference(ours, theirs));
  return difference(ours, theirs) < 1e-6f ? 0 : 1;
}
