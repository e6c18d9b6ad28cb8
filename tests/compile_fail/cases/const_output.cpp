// SPDX-License-Identifier: Apache-2.0
// expect: (constraints not satisfied|no matching function)
// A view to read from cannot be rescaled in place.
#include <zerotune/apply/weights.hpp>
#include <zerotune/policy/initial_token.hpp>

#if defined(ZEROTUNE_WRONG)
using element = const float;
#else
using element = float;
#endif

void rescale(const zerotune::tensor_view<element, 2>& weights) {
  zerotune::rescale_weights(weights, zerotune::initial_token{2.0f});
}
