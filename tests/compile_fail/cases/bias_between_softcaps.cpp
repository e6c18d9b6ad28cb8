// SPDX-License-Identifier: Apache-2.0
// expect: zerotune: a logit transform \(softcap\) must come before every bias
// A composition that begins with a transform has a bias in it all the same.
#include <zerotune/policy/compose.hpp>
#include <zerotune/policy/initial_token.hpp>
#include <zerotune/policy/softcap.hpp>

auto modifier() {
#if defined(ZEROTUNE_WRONG)
  return (zerotune::softcap{30.0f} | zerotune::initial_token{2.0f}) | zerotune::softcap{1.0f};
#else
  return (zerotune::softcap{30.0f} | zerotune::softcap{1.0f}) | zerotune::initial_token{2.0f};
#endif
}
