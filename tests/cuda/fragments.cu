// SPDX-License-Identifier: Apache-2.0
// The fragments compile for the device: the stand-ins of fragments.hpp as kernels.
#include "fragments.hpp"

namespace {

using modifier = zerotune::composition<zerotune::causal, zerotune::initial_token>;

__global__ void variant_kernel(zerotune::interop::logits_variant<modifier> variant,
                               zerotune_test::variant_parameters parameters, const float* q,
                               const float* k, const float* v, float* out) {
  zerotune_test::variant_attention(variant, parameters, q + threadIdx.x * 64, k, v, 64, 0.125f,
                                   1.0f, threadIdx.x, blockIdx.x, out + threadIdx.x * 64);
}
__global__ void visitor_kernel(zerotune::interop::score_visitor<modifier> visitor, float* tile) {
  zerotune_test::epilogue_tile(visitor, tile + threadIdx.x * 16, 0, 4);
  tile[0] += zerotune::interop::log2_gamma(tile[1]);
}

}  // namespace

void launch_fragments(zerotune::interop::logits_variant<modifier> variant,
                      zerotune::interop::score_visitor<modifier> visitor, float* x) {
  variant_kernel<<<1, 32>>>(variant, {1, 1}, x, x, x, x);
  visitor_kernel<<<1, 32>>>(visitor, x);
}
