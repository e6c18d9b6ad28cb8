// SPDX-License-Identifier: Apache-2.0
// expect: (constraints not satisfied|no matching function)
// expect: bias_modifier
// A softcap changes logits; where they are gone it cannot act.
#include <zerotune/apply/weights.hpp>
#include <zerotune/policy/compose.hpp>
#include <zerotune/policy/initial_token.hpp>
#include <zerotune/policy/softcap.hpp>

void rescale(const zerotune::tensor_view<float, 2>& weights) {
#if defined(ZEROTUNE_WRONG)
  zerotune::rescale_weights(weights, zerotune::softcap{30.0f} | zerotune::initial_token{2.0f});
#else
  zerotune::rescale_weights(weights, zerotune::identity{} | zerotune::initial_token{2.0f});
#endif
}
