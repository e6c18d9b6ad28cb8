// SPDX-License-Identifier: Apache-2.0
// The attention of the host for one instruction set: compiled once for each, with
// ZEROTUNE_DISPATCHED as the name of the one function that it is entered through.
#include "llama/kernels.hpp"
#include "zerotune/kernel/attention_backward_block.hpp"
#include "zerotune/kernel/attention_problem.hpp"
#include "zerotune/kernel/scalar/row_ops.hpp"
#include "zerotune/policy/compose.hpp"
#include "zerotune/policy/identity.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"
#if defined(ZEROTUNE_LLAMA_WITH_SIMD)
#include "zerotune/kernel/simd/simd.hpp"
#endif

namespace {

using namespace zerotune;
using llama::attention_backward_call;
using llama::attention_call;
using llama::attention_cut;

#if defined(ZEROTUNE_LLAMA_WITH_SIMD)
using back_end = backend::simd<>;
#else
using back_end = backend::scalar;
#endif
using problem = impl::attention_problem<float, float, float>;
using kernel = impl::attention_kernel<back_end, float, float, float>;

attention_shape shape_of(const attention_call& c) {
  return {1, c.q.extent(1), c.q.extent(2), c.k.extent(2)};
}

problem problem_of(const attention_call& c) {
  return {c.q, c.k, c.v, c.out, c.lse, c.softmax_scale, {shape_of(c), {}, {}}};
}

/// body(modifier), by which the model as it is stays free of any.
template <class Body>
void with_modifier(const attention_call& c, const Body& body) {
  if (!c.gammas) return body(compose(identity{}, causal{}));
  const initial_token sink{tensor_view<const float, 1>(c.gammas, {c.q.extent(1)})};
  body(compose(c.initial_position == 0
                   ? sink
                   : sink.at(tensor_view<const index_t, 1>(&c.initial_position, {1})),
               causal{}));
}

attention_cut cut(const attention_call& c, index_t wanted_tasks) noexcept {
  const impl::attention_tiling tiling = kernel::tiling(problem_of(c), c.plan, wanted_tasks);
  return {tiling.tasks, tiling.scratch_bytes};
}

void run(const attention_call& c, index_t wanted_tasks, index_t task, std::byte* scratch) noexcept {
  const problem p = problem_of(c);
  const impl::attention_tiling tiling = kernel::tiling(p, c.plan, wanted_tasks);
  with_modifier(c, [&](const auto& m) { kernel::run(p, m, tiling, task, scratch); });
}

// --- backward ------------------------------------------------------------------------------------

impl::backward_layout layout_of(const attention_call& c) {
  return {c.q.extent(3), c.v.extent(3), c.q.extent(1) / c.k.extent(1) * c.q.extent(2)};
}

attention_cut cut_backward(const attention_backward_call& c) noexcept {
  return {c.forward.k.extent(1), layout_of(c.forward).total * index_t{sizeof(float)}};
}

impl::row_source<float> source(const tensor_view<const float, 4>& t, index_t head) {
  const float* const data = t.pointer(0, head, 0, 0);
  return {data,
          t.stride(1),
          t.stride(2),
          t.stride(3),
          t.stride(3) == 1 ? data : nullptr,
          &impl::add_row<back_end, float>};
}
impl::row_sink<float> sink(const tensor_view<float, 4>& t, index_t head) {
  return {t.pointer(0, head, 0, 0), t.stride(1), t.stride(2), t.stride(3),
          &impl::store_row<back_end, float>};
}

void run_backward(const attention_backward_call& c, index_t kv_head, std::byte* scratch) noexcept {
  const attention_call& f = c.forward;
  const index_t group_size = f.q.extent(1) / f.k.extent(1), head = kv_head * group_size;
  const impl::attention_backward_args<float> args{source(f.q, head),
                                                  source(f.k, kv_head),
                                                  source(f.v, kv_head),
                                                  source(f.out, head),
                                                  source(c.d_out, head),
                                                  f.lse.pointer(0, head, 0),
                                                  f.lse.stride(1),
                                                  f.lse.stride(2),
                                                  sink(c.d_q, head),
                                                  sink(c.d_k, kv_head),
                                                  sink(c.d_v, kv_head),
                                                  c.d_log_gamma + head,
                                                  1,
                                                  &impl::store_number<double>,
                                                  f.initial_position,
                                                  0,
                                                  head,
                                                  group_size,
                                                  f.q.extent(3),
                                                  f.v.extent(3),
                                                  f.softmax_scale};
  const geometry g{shape_of(f), {}, {}};
  with_modifier(f, [&](const auto& m) {
    using modifier = std::remove_cvref_t<decltype(m)>;
    impl::backward_group<back_end, float, modifier>(args, g, m, reinterpret_cast<float*>(scratch))
        .run();
  });
}

}  // namespace

llama::attention_kernels ZEROTUNE_DISPATCHED() { return {cut, run, cut_backward, run_backward}; }
