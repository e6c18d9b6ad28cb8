// SPDX-License-Identifier: Apache-2.0
// The SIMD back end and threads: both are arguments.
#include <cstdio>
#include <zerotune/core/thread_pool.hpp>
#include <zerotune/kernel/simd/simd.hpp>

#include "problem.hpp"

int main() {
  problem p;
  namespace zt = zerotune;
  zt::tensor_view q(p.q.data(), {1, 4, 6, 8});
  zt::tensor_view k(p.k.data(), {1, 2, 6, 8});
  zt::tensor_view v(p.v.data(), {1, 2, 6, 8});
  std::vector<float> out_data(p.q.size()), wanted(p.q.size());
  zt::tensor_view out(out_data.data(), {1, 4, 6, 8});
  zt::initial_token sink(zt::tensor_view(p.gammas.data(), {4}));
  zt::attention(q, k, v, zt::tensor_view(wanted.data(), {1, 4, 6, 8}), zt::causal{} | sink);
  // [snippet]
  zt::thread_pool threads(2);
  zt::attention(zt::backend::simd<>{}, q, k, v, out, zt::causal{} | sink, {}, threads);
  // [/snippet]
  std::printf("difference from scalar %.2g\n", difference(out_data, wanted));
  return difference(out_data, wanted) < 1e-5f ? 0 : 1;
}
