// SPDX-License-Identifier: Apache-2.0
// expect: zerotune: double and float tensors do not mix in one attention
// Which of them to accumulate in would be a guess.
#include <zerotune/apply/attention.hpp>
#include <zerotune/policy/initial_token.hpp>

#if defined(ZEROTUNE_WRONG)
using query = double;
#else
using query = float;
#endif

void attend(const zerotune::tensor_view<const query, 4>& q,
            const zerotune::tensor_view<const float, 4>& k,
            const zerotune::tensor_view<const float, 4>& v,
            const zerotune::tensor_view<float, 4>& out) {
  zerotune::attention(q, k, v, out, zerotune::initial_token{2.0f});
}
