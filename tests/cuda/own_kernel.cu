// SPDX-License-Identifier: Apache-2.0
// The second snippet of docs/cuda.md, compiled as it stands there.
// [snippet]
#include <zerotune/interop/cutlass.hpp>

// scores[j]: q.k_j scaled by softmax_scale * log2(e), before the running maximum is taken.
__device__ void add_gamma(float* scores, int first_key, int count, float gamma) {
  const int j = 0 - first_key;  // the initial token is key 0 of its sequence, and of no other tile
  if (j >= 0 && j < count) scores[j] += zerotune::interop::log2_gamma(gamma);
}
// [snippet]

__global__ void kernel(float* scores, float gamma) { add_gamma(scores, 0, 32, gamma); }
