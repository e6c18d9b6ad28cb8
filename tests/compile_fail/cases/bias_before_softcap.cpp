// SPDX-License-Identifier: Apache-2.0
// expect: zerotune: a logit transform \(softcap\) must come before every bias
// The pipeline of a logit is fixed: transforms, then biases.
#include <zerotune/policy/compose.hpp>
#include <zerotune/policy/initial_token.hpp>
#include <zerotune/policy/softcap.hpp>

auto modifier() {
#if defined(ZEROTUNE_WRONG)
  return zerotune::initial_token{2.0f} | zerotune::softcap{30.0f};
#else
  return zerotune::softcap{30.0f} | zerotune::initial_token{2.0f};
#endif
}
