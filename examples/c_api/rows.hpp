// SPDX-License-Identifier: Apache-2.0
// What the kernels of the C interface share: modifiers from a call's options, rows of tensors of
// any element type, blocks of rows as tasks. Compiled once for each instruction set, under its tag.
#pragma once

#include <type_traits>

#include "kernels.hpp"
#include "zerotune/kernel/attention_backward_row.hpp"
#include "zerotune/kernel/scalar/row_ops.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"
#include "zerotune/policy/softcap.hpp"
#if defined(ZEROTUNE_C_SIMD)
#include "zerotune/kernel/simd/simd.hpp"
#endif

namespace capi {
inline namespace ZEROTUNE_ABI {

using namespace zerotune;

#if defined(ZEROTUNE_C_SIMD)
using back_end = backend::simd<>;
#else
using back_end = backend::scalar;
#endif

/// causal and window as they are switched on.
struct visibility {
  bool is_causal;
  index_t window;

  template <class Batch>
  Batch log_bias(row r, Batch kv_pos) const {
    return impl::bias_outside(visible(r), kv_pos);
  }
  double factor(row, index_t) const { return 1; }
  range visible(row r) const {
    const range past = window > 0 ? sliding_window{window}.visible(r) : everywhere;
    return is_causal ? intersect(past, causal{}.visible(r)) : past;
  }
  range support(row) const { return {}; }
  tile_effect effect(int head, range q, range kv) const {
    const tile_effect a = is_causal ? causal{}.effect(head, q, kv) : tile_effect::none;
    const tile_effect b =
        window > 0 ? sliding_window{window}.effect(head, q, kv) : tile_effect::none;
    if (a == tile_effect::masked || b == tile_effect::masked) return tile_effect::masked;
    return a == tile_effect::apply ? a : b;
  }
};

inline auto biases(const problem& p) {
  const initial_token sink =
      p.gamma ? initial_token{tensor_view<const float, 1>(p.gamma, {p.num_heads})}
              : initial_token{1.0f};
  return visibility{p.causal, p.window} |
         (p.initial_pos ? sink.at(tensor_view<const index_t, 1>(p.initial_pos, {p.batch})) : sink);
}

template <class Body>
auto with_modifier(const problem& p, const Body& body) {
  return p.softcap > 0.0f ? body(softcap{p.softcap} | biases(p)) : body(biases(p));
}

inline geometry geometry_of(const problem& p) {
  return {{p.batch, p.num_heads, p.q_len, p.kv_len}, {}, {}};
}

/// Rows of a task that goes by blocks of rows, and which ones they are.
inline constexpr index_t block_rows = 32;
struct block {
  index_t batch, head, first, last;
};
inline index_t blocks_of_head(const problem& p) { return (p.q_len + block_rows - 1) / block_rows; }
inline index_t blocks_of(const problem& p) { return p.batch * p.num_heads * blocks_of_head(p); }
inline block block_of(const problem& p, index_t task) {
  const index_t head = task / blocks_of_head(p), first = task % blocks_of_head(p) * block_rows;
  return {head / p.num_heads, head % p.num_heads, first,
          first + block_rows < p.q_len ? first + block_rows : p.q_len};
}

/// Calls body with an element of dtype, of those whose accumulator is Acc: float64 goes with
/// float64 only.
template <class Acc, class Body>
auto with_type(std::int32_t dtype, const Body& body) {
  if constexpr (std::is_same_v<Acc, double>)
    return body(double{});
  else if (dtype == 0)
    return body(float{});
  else if (dtype == 2)
    return body(float16{});
  else
    return body(bfloat16{});
}

inline index_t offset_of(const zt_tensor& t, index_t batch, index_t head) {
  return batch * t.strides[0] + head * t.strides[1];
}
template <class T>
T* head_data(const zt_tensor& t, index_t batch, index_t head) {
  return t.data ? static_cast<T*>(t.data) + offset_of(t, batch, head) : nullptr;
}

/// The rows of a head, to read and to write.
template <class Acc>
impl::row_source<Acc> source(const zt_tensor& t, index_t batch, index_t head) {
  return with_type<Acc>(t.dtype, [&](auto kind) -> impl::row_source<Acc> {
    using type = decltype(kind);
    const type* const data = head_data<const type>(t, batch, head);
    impl::row_source<Acc> result{data,         t.strides[1], t.strides[2],
                                 t.strides[3], nullptr,      &impl::add_row<back_end, type>};
    if constexpr (std::is_same_v<type, Acc>)
      if (t.strides[3] == 1) result.direct = data;
    return result;
  });
}
template <class Acc>
impl::row_sink<Acc> sink(const zt_tensor& t, index_t batch, index_t head) {
  return with_type<Acc>(t.dtype, [&](auto kind) -> impl::row_sink<Acc> {
    using type = decltype(kind);
    return {head_data<type>(t, batch, head), t.strides[1], t.strides[2], t.strides[3],
            &impl::store_row<back_end, type>};
  });
}

}  // namespace ZEROTUNE_ABI
}  // namespace capi
