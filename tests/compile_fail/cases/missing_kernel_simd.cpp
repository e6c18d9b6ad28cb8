// SPDX-License-Identifier: Apache-2.0
// needs: simd
// expect: zerotune: this back end has no kernel for this form and element type
// expect: missing_kernel<zerotune::backend::simd<.*float>
// backend::simd without its header is an error that names it.
#include <zerotune/apply/weights.hpp>
#include <zerotune/policy/initial_token.hpp>
#if !defined(ZEROTUNE_WRONG)
#include <zerotune/kernel/simd/simd.hpp>
#endif

void rescale(const zerotune::tensor_view<float, 2>& weights) {
  zerotune::rescale_weights(zerotune::backend::simd<>{}, weights, zerotune::initial_token{2.0f});
}
