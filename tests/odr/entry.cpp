// SPDX-License-Identifier: Apache-2.0
// A translation unit built for one architecture, as docs/design.md ("One definition") wants it: it
// is entered through one function with plain data and includes kernel/ and core/ only. Compiled
// once per architecture and mode, with ZEROTUNE_ENTRY as the name of its function.
#include "entry.hpp"

#include "zerotune/kernel/attention_row.hpp"
#include "zerotune/kernel/logits_row.hpp"
#include "zerotune/kernel/output_row.hpp"
#include "zerotune/kernel/scalar/row_ops.hpp"
#include "zerotune/kernel/weights_row.hpp"
#include "zerotune/policy/compose.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"
#if defined(ZEROTUNE_ODR_SIMD)
#include "zerotune/kernel/simd/simd.hpp"
#endif

#if defined(ZEROTUNE_ODR_SIMD)
using back_end = zerotune::backend::simd<>;
#else
using back_end = zerotune::backend::scalar;
#endif

const char* ZEROTUNE_ENTRY(const odr_call& call) {
  using namespace zerotune;
  const geometry g{{1, call.num_heads, call.q_len, call.kv_len}, {}, {}};
  const auto modifier =
      causal{} | initial_token{tensor_view<const float, 1>(call.gamma, {call.num_heads})};
  for (index_t head = 0; head < call.num_heads; ++head) {
    for (index_t i = 0; i < call.q_len; ++i) {
      const row r = g.at(0, head, i);
      const index_t at = head * call.q_len + i;
      const impl::attention_row_args<float, float, float> args{
          call.q + at * call.head_dim,
          1,
          call.k + head * call.kv_len * call.head_dim,
          call.head_dim,
          1,
          call.v + head * call.kv_len * call.head_dim,
          call.head_dim,
          1,
          call.out + at * call.head_dim,
          1,
          call.lse + at,
          call.head_dim,
          call.head_dim,
          call.softmax_scale};
      impl::attention_row<back_end>(args, g, modifier, r);
      impl::rescale_row<back_end>(call.weights + at * call.kv_len, 1, g, modifier, r);
      impl::bias_row<back_end>(call.logits + at * call.kv_len, 1, g, modifier, r);
      impl::fill_mask_row<back_end>(call.mask + at * call.kv_len, 1, g, modifier, r);
    }
  }
  return ZEROTUNE_ABI_NAME;
}
