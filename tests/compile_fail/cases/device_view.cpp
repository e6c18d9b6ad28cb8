// SPDX-License-Identifier: Apache-2.0
// expect: (no matching function|no match|device_memory)
// A view of an accelerator's memory has no business in a host function.
#include <zerotune/apply/weights.hpp>
#include <zerotune/policy/initial_token.hpp>

void rescale(float* weights) {
#if defined(ZEROTUNE_WRONG)
  const zerotune::tensor_view<float, 2, zerotune::device_memory> view(weights, {4, 4});
#else
  const zerotune::tensor_view<float, 2, zerotune::host_memory> view(weights, {4, 4});
#endif
  zerotune::rescale_weights(view, zerotune::initial_token{2.0f});
}
