// SPDX-License-Identifier: Apache-2.0
// The kernels of the C interface that depend on the accumulator alone: gradients, which read and
// write rows of any type, and copies of another type.
#pragma once

#include "rows.hpp"
#include "zerotune/kernel/attention_backward_block.hpp"

namespace capi {
inline namespace ZEROTUNE_ABI {

template <class Acc>
struct sum_operations {
  static impl::backward_layout layout_of(const problem& p) {
    return {p.q.shape[3], p.v.shape[3], p.num_heads / p.num_kv_heads * p.q_len};
  }
  static work plan_backward(const problem& p, index_t) noexcept {
    return {p.batch * p.num_kv_heads, layout_of(p).total * index_t{sizeof(Acc)}};
  }
  static index_t run_backward(const problem& p, const work&, index_t task,
                              std::byte* scratch) noexcept {
    const index_t b = task / p.num_kv_heads, kv_head = task % p.num_kv_heads;
    const index_t group_size = p.num_heads / p.num_kv_heads, head = kv_head * group_size;
    const impl::attention_backward_args<Acc> args{
        source<Acc>(p.q, b, head),
        source<Acc>(p.k, b, kv_head),
        source<Acc>(p.v, b, kv_head),
        source<Acc>(p.out, b, head),
        source<Acc>(p.d_out, b, head),
        head_data<const Acc>(p.lse, b, head),
        p.lse.strides[1],
        p.lse.strides[2],
        sink<Acc>(p.d_q, b, head),
        sink<Acc>(p.d_k, b, kv_head),
        sink<Acc>(p.d_v, b, kv_head),
        p.d_log_gamma ? p.d_log_gamma + b * p.num_heads + head : nullptr,
        1,
        &impl::store_number<float>,
        p.initial_pos ? p.initial_pos[b] : 0,
        b,
        head,
        group_size,
        p.q.shape[3],
        p.v.shape[3],
        static_cast<Acc>(p.softmax_scale)};
    const geometry g = geometry_of(p);
    with_modifier(p, [&](const auto& m) {
      using modifier = std::remove_cvref_t<decltype(m)>;
      impl::backward_group<back_end, Acc, modifier>(args, g, m, reinterpret_cast<Acc*>(scratch))
          .run();
    });
    return 0;
  }

  static work plan_convert(const problem& p, index_t) noexcept {
    return {blocks_of(p), p.q.shape[3] * index_t{sizeof(Acc)}};
  }
  static index_t run_convert(const problem& p, const work&, index_t task,
                             std::byte* scratch) noexcept {
    const block at = block_of(p, task);
    const impl::row_source<Acc> from = source<Acc>(p.q, at.batch, at.head);
    const impl::row_sink<Acc> to = sink<Acc>(p.out, at.batch, at.head);
    Acc* const row = reinterpret_cast<Acc*>(scratch);
    for (index_t i = at.first; i < at.last; ++i) {
      impl::clear(row, p.q.shape[3]);
      from.add(from.data, i * from.row, from.column, Acc(1), row, p.q.shape[3]);
      to.store(row, Acc(1), to.data, i * to.row, to.column, p.q.shape[3]);
    }
    return 0;
  }

  static sum_kernels all() { return {{plan_backward, run_backward}, {plan_convert, run_convert}}; }
};

}  // namespace ZEROTUNE_ABI
}  // namespace capi
