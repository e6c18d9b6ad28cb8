// SPDX-License-Identifier: Apache-2.0
// expect: zerotune: this back end has no kernel for this form and element type
// expect: missing_kernel<zerotune::backend::eigen, .*(attention|form\)6).*, float>
// Eigen has no attention of its own; there is no silent fallback to another back end.
#include <zerotune/apply/attention.hpp>
#include <zerotune/policy/initial_token.hpp>

#if defined(ZEROTUNE_WRONG)
using back_end = zerotune::backend::eigen;
#else
using back_end = zerotune::backend::scalar;
#endif

void attend(const zerotune::tensor_view<const float, 4>& q,
            const zerotune::tensor_view<const float, 4>& k,
            const zerotune::tensor_view<const float, 4>& v,
            const zerotune::tensor_view<float, 4>& out) {
  zerotune::attention(back_end{}, q, k, v, out, zerotune::initial_token{2.0f});
}
