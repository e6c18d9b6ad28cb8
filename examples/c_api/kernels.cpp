// SPDX-License-Identifier: Apache-2.0
// The kernels of the C interface for one instruction set: compiled once for each, with
// ZEROTUNE_DISPATCHED as the name of the one function that it is entered through.
#include "kernels.hpp"

#include "zerotune/kernel/attention_backward_block.hpp"
#include "zerotune/kernel/output_row.hpp"
#include "zerotune/kernel/scalar/row_ops.hpp"
#include "zerotune/kernel/weights_row.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"
#include "zerotune/policy/softcap.hpp"
#if defined(ZEROTUNE_C_SIMD)
#include "zerotune/kernel/simd/simd.hpp"
#endif

// Types of this namespace make every template that takes one local to the translation unit.
namespace {

using namespace zerotune;
using zt_c::block;
using zt_c::problem;

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

auto biases(const problem& p) {
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

template <class Body>
auto with_type(std::int32_t dtype, const Body& body) {
  switch (dtype) {
    case 0:
      return body(float{});
    case 1:
      return body(double{});
    case 2:
      return body(float16{});
    default:
      return body(bfloat16{});
  }
}

geometry geometry_of(const problem& p) {
  return {{p.batch, p.num_heads, p.q_len, p.kv_len}, {}, {}};
}

/// The tensor [heads, length, dim] of one batch entry. Element types of the other accumulator are
/// never asked for: float64 goes with float64.
template <class Acc>
impl::row_source<Acc> source(const zt_tensor& t, index_t batch, index_t head) {
  return with_type(t.dtype, [&](auto kind) -> impl::row_source<Acc> {
    using type = decltype(kind);
    if constexpr (std::is_same_v<accumulator_t<type>, Acc>) {
      const index_t begin = batch * t.strides[0] + head * t.strides[1];
      const type* const data = t.data ? static_cast<const type*>(t.data) + begin : nullptr;
      impl::row_source<Acc> result{data,         t.strides[1], t.strides[2],
                                   t.strides[3], nullptr,      &impl::add_row<back_end, type>};
      if constexpr (std::is_same_v<type, Acc>)
        if (t.strides[3] == 1) result.direct = data;
      return result;
    } else {
      return {};
    }
  });
}
template <class Acc>
impl::row_sink<Acc> sink(const zt_tensor& t, index_t batch, index_t head) {
  return with_type(t.dtype, [&](auto kind) -> impl::row_sink<Acc> {
    using type = decltype(kind);
    if constexpr (std::is_same_v<accumulator_t<type>, Acc>) {
      const index_t begin = batch * t.strides[0] + head * t.strides[1];
      return {t.data ? static_cast<type*>(t.data) + begin : nullptr, t.strides[1], t.strides[2],
              t.strides[3], &impl::store_row<back_end, type>};
    } else {
      return {};
    }
  });
}

template <class T>
const T* head_data(const zt_tensor& t, index_t batch, index_t head) {
  return t.data ? static_cast<const T*>(t.data) + batch * t.strides[0] + head * t.strides[1]
                : nullptr;
}

/// Where rows of queries, of the output and of the LSE are while a block is worked on: in the
/// caller's memory if it holds accumulators, else in scratch.
template <class Acc>
struct rows {
  Acc *q, *out, *lse;
  index_t q_row, q_column, out_row, out_column, lse_row;
  bool q_copied, out_copied, lse_copied;
  impl::row_source<Acc> q_from, out_from, lse_from;
  impl::row_sink<Acc> out_to, lse_to;
  block at;

  rows(const problem& p, const block& given, double* scratch) : at(given) {
    constexpr std::int32_t own = std::is_same_v<Acc, double> ? 1 : 0;
    q_copied = p.q.dtype != own, out_copied = p.out.dtype != own;
    lse_copied = p.lse.data && p.lse.dtype != own;
    q_from = source<Acc>(p.q, at.batch, at.head);
    out_from = source<Acc>(p.out, at.batch, at.head);
    out_to = sink<Acc>(p.out, at.batch, at.head);
    place(p.q, q_copied, reinterpret_cast<Acc*>(scratch), &q, &q_row, &q_column);
    double* const after = scratch + zt_c::block_rows * p.q.shape[3];
    place(p.out, out_copied, reinterpret_cast<Acc*>(after), &out, &out_row, &out_column);
    lse = nullptr, lse_row = 0;
    if (!p.lse.data) return;
    index_t unused = 0;
    place(p.lse, lse_copied, reinterpret_cast<Acc*>(after + zt_c::block_rows * p.out.shape[3]),
          &lse, &lse_row, &unused);
  }

  void place(const zt_tensor& t, bool copied, Acc* copy, Acc** data, index_t* row_step,
             index_t* column) const {
    *row_step = copied ? t.shape[3] : t.strides[2];
    *column = copied ? 1 : t.strides[3];
    *data = copied ? copy
                   : static_cast<Acc*>(t.data) + at.batch * t.strides[0] + at.head * t.strides[1] +
                         at.first * t.strides[2];
  }
  void read(const impl::row_source<Acc>& from, Acc* to, index_t columns) const {
    for (index_t i = at.first; i < at.last; ++i, to += columns) {
      impl::clear(to, columns);
      from.add(from.data, i * from.row, from.column, Acc(1), to, columns);
    }
  }
  void write_out(index_t i, index_t columns) const {
    if (out_copied)
      out_to.store(out + i * out_row, Acc(1), out_to.data, (at.first + i) * out_to.row,
                   out_to.column, columns);
  }
};

std::int64_t row_scratch(const problem& p) {
  return zt_c::block_rows * (p.q.shape[3] + p.out.shape[3] + 1);
}

/// An LSE of float32 beside sums in float64: its rows are converted by hand.
template <class Acc>
float* narrow_lse(const problem& p, const block& at, index_t i) {
  return static_cast<float*>(p.lse.data) + at.batch * p.lse.strides[0] +
         at.head * p.lse.strides[1] + (at.first + i) * p.lse.strides[2];
}

std::int64_t run_attention(const problem& p, const block& at, double* scratch) noexcept {
  with_type(p.k.dtype, [&](auto kind) {
    using type = decltype(kind);
    using acc = accumulator_t<type>;
    const index_t kv_head = at.head / (p.num_heads / p.num_kv_heads), count = at.last - at.first;
    const rows<acc> r(p, at, scratch);
    if (r.q_copied) r.read(r.q_from, r.q, p.q.shape[3]);
    const impl::attention_row_args<acc, type, acc> args{r.q,
                                                        r.q_column,
                                                        head_data<type>(p.k, at.batch, kv_head),
                                                        p.k.strides[2],
                                                        p.k.strides[3],
                                                        head_data<type>(p.v, at.batch, kv_head),
                                                        p.v.strides[2],
                                                        p.v.strides[3],
                                                        r.out,
                                                        r.out_column,
                                                        r.lse,
                                                        p.q.shape[3],
                                                        p.out.shape[3],
                                                        static_cast<acc>(p.softmax_scale)};
    with_modifier(p, [&](const auto& m) {
      impl::attention_rows<back_end>(args, {r.q_row, r.out_row, r.lse_row}, geometry_of(p), m,
                                     at.batch, at.head, {at.first, at.last});
    });
    for (index_t i = 0; i < count; ++i) {
      r.write_out(i, p.out.shape[3]);
      if (r.lse_copied) *narrow_lse<acc>(p, at, i) = static_cast<float>(r.lse[i]);
    }
  });
  return 0;
}

std::int64_t run_correct(const problem& p, const block& at, double* scratch) noexcept {
  return with_type(p.k.dtype, [&](auto kind) {
    using type = decltype(kind);
    using acc = accumulator_t<type>;
    const index_t kv_head = at.head / (p.num_heads / p.num_kv_heads);
    const rows<acc> r(p, at, scratch);
    const type* const k = head_data<type>(p.k, at.batch, kv_head);
    const type* const v = head_data<type>(p.v, at.batch, kv_head);
    if (r.q_copied) r.read(r.q_from, r.q, p.q.shape[3]);
    if (r.out_copied) r.read(r.out_from, r.out, p.out.shape[3]);
    const geometry g = geometry_of(p);
    const auto m = biases(p);
    std::int64_t amplified = 0;
    for (index_t i = 0; i < at.last - at.first; ++i) {
      double lse = r.lse_copied ? static_cast<double>(*narrow_lse<acc>(p, at, i))
                                : static_cast<double>(r.lse[i * r.lse_row]);
      double d = 1;
      const row_status status = impl::correct_row<back_end>(
          v, p.v.strides[2], p.v.strides[3], r.out + i * r.out_row, r.out_column, p.out.shape[3],
          p.min_d, g, m, g.at(at.batch, at.head, at.first + i),
          [&](index_t j) {
            return impl::weight_from_lse<back_end>(
                static_cast<const acc*>(r.q + i * r.q_row), r.q_column, k + j * p.k.strides[2],
                p.k.strides[3], p.q.shape[3], p.softmax_scale, static_cast<double>(p.softcap), lse);
          },
          &d);
      if (status == row_status::amplified) ++amplified;
      if (status != row_status::corrected) continue;
      r.write_out(i, p.out.shape[3]);
      lse += ::log(d);
      if (r.lse_copied)
        *narrow_lse<acc>(p, at, i) = static_cast<float>(lse);
      else
        r.lse[i * r.lse_row] = static_cast<acc>(lse);
    }
    return amplified;
  });
}

std::int64_t run_rescale(const problem& p, const block& at, double*) noexcept {
  with_type(p.weights.dtype, [&](auto kind) {
    using type = decltype(kind);
    const geometry g = geometry_of(p);
    const auto m = biases(p);
    type* const weights = static_cast<type*>(p.weights.data) + at.batch * p.weights.strides[0] +
                          at.head * p.weights.strides[1];
    for (index_t i = at.first; i < at.last; ++i)
      impl::rescale_row<back_end>(weights + i * p.weights.strides[2], p.weights.strides[3], g, m,
                                  g.at(at.batch, at.head, i));
  });
  return 0;
}

impl::backward_layout layout_of(const problem& p) {
  return {p.q.shape[3], p.v.shape[3], p.num_heads / p.num_kv_heads * p.q_len};
}

std::int64_t run_backward(const problem& p, const block& at, double* scratch) noexcept {
  const index_t group_size = p.num_heads / p.num_kv_heads, head = at.head * group_size;
  const auto run = [&](auto zero) {
    using acc = decltype(zero);
    const impl::attention_backward_args<acc> args{
        source<acc>(p.q, at.batch, head),
        source<acc>(p.k, at.batch, at.head),
        source<acc>(p.v, at.batch, at.head),
        source<acc>(p.out, at.batch, head),
        source<acc>(p.d_out, at.batch, head),
        head_data<acc>(p.lse, at.batch, head),
        p.lse.strides[1],
        p.lse.strides[2],
        sink<acc>(p.d_q, at.batch, head),
        sink<acc>(p.d_k, at.batch, at.head),
        sink<acc>(p.d_v, at.batch, at.head),
        p.d_log_gamma ? p.d_log_gamma + at.batch * p.num_heads + head : nullptr,
        1,
        &impl::store_number<float>,
        p.initial_pos ? p.initial_pos[at.batch] : 0,
        at.batch,
        head,
        group_size,
        p.q.shape[3],
        p.v.shape[3],
        static_cast<acc>(p.softmax_scale)};
    const geometry g = geometry_of(p);
    with_modifier(p, [&](const auto& m) {
      using modifier = std::remove_cvref_t<decltype(m)>;
      impl::backward_group<back_end, acc, modifier>(args, g, m, reinterpret_cast<acc*>(scratch))
          .run();
    });
  };
  if (p.k.dtype == 1)
    run(double{});
  else
    run(float{});
  return 0;
}

}  // namespace

zt_c::kernels ZEROTUNE_DISPATCHED() {
  const auto none = [](const problem&) -> std::int64_t { return 0; };
  return {{row_scratch, run_attention},
          {[](const problem& p) -> std::int64_t { return layout_of(p).total; }, run_backward},
          {none, run_rescale},
          {row_scratch, run_correct}};
}
