// SPDX-License-Identifier: Apache-2.0
// The kernels of the C interface for one element type of keys and values, or of weights.
#pragma once

#include "rows.hpp"
#include "zerotune/kernel/attention_problem.hpp"
#include "zerotune/kernel/output_row.hpp"
#include "zerotune/kernel/weights_row.hpp"

namespace capi {
inline namespace ZEROTUNE_ABI {

template <class T, std::size_t Rank = 4>
tensor_view<T, Rank> view_of(const zt_tensor& t) {
  if constexpr (Rank == 4)
    return {static_cast<T*>(t.data),
            {t.shape[0], t.shape[1], t.shape[2], t.shape[3]},
            {t.strides[0], t.strides[1], t.strides[2], t.strides[3]}};
  else
    return {static_cast<T*>(t.data),
            {t.shape[0], t.shape[1], t.shape[2]},
            {t.strides[0], t.strides[1], t.strides[2]}};
}

/// Fused attention, with queries and outputs of QO.
template <class QO, class KV>
struct fused {
  using acc = accumulator_t<KV>;
  using problem_type = impl::attention_problem<QO, KV, QO>;
  using kernel = impl::attention_kernel<back_end, QO, KV, QO>;

  static problem_type typed(const problem& p) {
    return {view_of<const QO>(p.q), view_of<const KV>(p.k), view_of<const KV>(p.v),
            view_of<QO>(p.out),     view_of<acc, 3>(p.lse), static_cast<acc>(p.softmax_scale),
            geometry_of(p)};
  }
  static work plan(const problem& p, index_t wanted_tasks) noexcept {
    const impl::attention_tiling t =
        kernel::tiling(typed(p), {p.score_bytes, p.task_bytes, p.kept_bytes}, wanted_tasks);
    return {.tasks = t.tasks,
            .scratch_bytes = t.scratch_bytes,
            .key_block = t.key_block,
            .blocks_per_section = t.blocks_per_section,
            .panels_per_task = t.panels_per_task,
            .cached = t.place == impl::kv_place::caches};
  }
  static void run(const problem& p, const work& w, index_t task, std::byte* scratch) noexcept {
    const problem_type problem = typed(p);
    const impl::attention_tiling tiling{
        .tasks = w.tasks,
        .scratch_bytes = w.scratch_bytes,
        .key_block = w.key_block,
        .blocks_per_section = w.blocks_per_section,
        .panels_per_task = w.panels_per_task,
        .place = w.cached ? impl::kv_place::caches : impl::kv_place::memory};
    with_modifier(p, [&](const auto& m) { kernel::run(problem, m, tiling, task, scratch); });
  }
};

/// Where rows of queries, of the output and of the LSE are while a block is worked on: in the
/// caller's memory if it holds accumulators, else in scratch.
template <class Acc>
struct rows {
  Acc *q, *out, *lse;
  index_t q_row, q_column, out_row, out_column, lse_row;
  bool q_copied, out_copied, lse_copied;
  impl::row_sink<Acc> out_to;
  block at;

  rows(const problem& p, const block& given, std::byte* scratch) : at(given) {
    constexpr std::int32_t own = std::is_same_v<Acc, double> ? 1 : 0;
    q_copied = p.q.dtype != own, out_copied = p.out.dtype != own, lse_copied = p.lse.dtype != own;
    out_to = sink<Acc>(p.out, at.batch, at.head);
    Acc* const copies = reinterpret_cast<Acc*>(scratch);
    place(p.q, q_copied, copies, &q, &q_row, &q_column);
    Acc* const after = copies + block_rows * p.q.shape[3];
    place(p.out, out_copied, after, &out, &out_row, &out_column);
    index_t unused = 0;
    place(p.lse, lse_copied, after + block_rows * p.out.shape[3], &lse, &lse_row, &unused);
    if (q_copied) read(source<Acc>(p.q, at.batch, at.head), q, p.q.shape[3]);
    if (out_copied) read(source<Acc>(p.out, at.batch, at.head), out, p.out.shape[3]);
  }
  static index_t scratch_bytes(const problem& p) {
    return block_rows * (p.q.shape[3] + p.out.shape[3] + 1) * index_t{sizeof(Acc)};
  }

  void write_out(index_t i, index_t columns) const {
    if (out_copied)
      out_to.store(out + i * out_row, Acc(1), out_to.data, (at.first + i) * out_to.row,
                   out_to.column, columns);
  }

 private:
  void place(const zt_tensor& t, bool copied, Acc* copy, Acc** data, index_t* row_step,
             index_t* column) const {
    *row_step = copied ? t.shape[3] : t.strides[2];
    *column = copied ? 1 : t.strides[3];
    *data = copied ? copy : head_data<Acc>(t, at.batch, at.head) + at.first * t.strides[2];
  }
  void read(const impl::row_source<Acc>& from, Acc* to, index_t columns) const {
    for (index_t i = at.first; i < at.last; ++i, to += columns) {
      impl::clear(to, columns);
      from.add(from.data, i * from.row, from.column, Acc(1), to, columns);
    }
  }
};

template <class T>
struct type_operations {
  using acc = accumulator_t<T>;
  /// Are q and out of the accumulator, and k is not?
  static bool is_mixed(const problem& p) { return p.q.dtype != p.k.dtype; }
  static work plan_attention(const problem& p, index_t wanted_tasks) noexcept {
    if constexpr (!std::is_same_v<T, acc>)
      if (is_mixed(p)) return fused<acc, T>::plan(p, wanted_tasks);
    return fused<T, T>::plan(p, wanted_tasks);
  }
  static index_t run_attention(const problem& p, const work& w, index_t task,
                               std::byte* scratch) noexcept {
    if constexpr (!std::is_same_v<T, acc>)
      if (is_mixed(p)) {
        fused<acc, T>::run(p, w, task, scratch);
        return 0;
      }
    fused<T, T>::run(p, w, task, scratch);
    return 0;
  }

  static work plan_correct(const problem& p, index_t) noexcept {
    return {blocks_of(p), rows<acc>::scratch_bytes(p)};
  }
  static index_t run_correct(const problem& p, const work&, index_t task,
                             std::byte* scratch) noexcept {
    const block at = block_of(p, task);
    const index_t kv_head = at.head / (p.num_heads / p.num_kv_heads);
    const rows<acc> r(p, at, scratch);
    const T* const k = head_data<T>(p.k, at.batch, kv_head);
    const T* const v = head_data<T>(p.v, at.batch, kv_head);
    const geometry g = geometry_of(p);
    const auto m = biases(p);
    // Float32 beside sums in float64.
    float* const narrow =
        r.lse_copied ? head_data<float>(p.lse, at.batch, at.head) + at.first * p.lse.strides[2]
                     : nullptr;
    const auto lse = [&](index_t i) {
      return narrow ? static_cast<double>(narrow[i * p.lse.strides[2]])
                    : static_cast<double>(r.lse[i * r.lse_row]);
    };
    const index_t rows_here = at.last - at.first;
    row_status status[block_rows];
    impl::correct_rows<back_end>(
        impl::corrected_head<T, acc>{v, p.v.strides[2], p.v.strides[3], r.out, r.out_row,
                                     r.out_column, p.out.shape[3], p.min_d},
        index_t(0), rows_here, g, m, g.at(at.batch, at.head, at.first),
        [&](index_t i, index_t rows, index_t j, double* a) {
          impl::weights_from_lse<back_end>(
              static_cast<const acc*>(r.q + i * r.q_row), r.q_row, r.q_column,
              k + j * p.k.strides[2], p.k.strides[3], p.q.shape[3], p.softmax_scale,
              static_cast<double>(p.softcap), [&](index_t n) { return lse(i + n); }, rows, a);
        },
        status,
        [&](index_t i, double log_d) {
          r.write_out(i, p.out.shape[3]);
          const double sum = lse(i) + log_d;
          if (narrow)
            narrow[i * p.lse.strides[2]] = static_cast<float>(sum);
          else
            r.lse[i * r.lse_row] = static_cast<acc>(sum);
        });
    index_t amplified = 0;
    for (index_t i = 0; i < rows_here; ++i) amplified += status[i] == row_status::amplified;
    return amplified;
  }

  static work plan_rescale(const problem& p, index_t) noexcept { return {blocks_of(p), 0}; }
  static index_t run_rescale(const problem& p, const work&, index_t task, std::byte*) noexcept {
    const block at = block_of(p, task);
    const geometry g = geometry_of(p);
    const auto m = biases(p);
    T* const weights = head_data<T>(p.weights, at.batch, at.head);
    for (index_t i = at.first; i < at.last; ++i)
      impl::rescale_row<back_end>(weights + i * p.weights.strides[2], p.weights.strides[3], g, m,
                                  g.at(at.batch, at.head, i));
    return 0;
  }

  static type_kernels all() {
    return {
        {plan_attention, run_attention}, {plan_rescale, run_rescale}, {plan_correct, run_correct}};
  }
};

}  // namespace ZEROTUNE_ABI
}  // namespace capi
