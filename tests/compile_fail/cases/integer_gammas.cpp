// SPDX-License-Identifier: Apache-2.0
// expect: (use of deleted function|call to deleted (constructor|function)|deleted)
// Gammas are float: a table of integers would round them to 0 and 1.
#include <zerotune/policy/initial_token.hpp>

#if defined(ZEROTUNE_WRONG)
using element = const int;
#else
using element = const float;
#endif

zerotune::initial_token sink(element* gammas) {
  return zerotune::initial_token{zerotune::tensor_view<element, 1>(gammas, {8})};
}
