// SPDX-License-Identifier: Apache-2.0
// Runs zerotune::attention on the machine for a problem and compares it with the oracle.
#pragma once

#include <gtest/gtest.h>

#include "machine.hpp"
#include "oracle.hpp"

namespace zerotune_test {

namespace zt = zerotune;

template <class T>
struct attention_run {
  std::vector<T> out;
  std::vector<float> lse;
  zt::device_attention_plan plan;
};

struct run_options {
  machine on{};
  long keys_per_split = 0;
  long page_size = 0;  // 0: contiguous
};

inline zt::attention_shape shape_of(const problem& p) {
  return {p.batch, p.heads, p.q_len, p.kv_len};
}

/// The gammas of a problem as a checked modifier in device memory.
struct device_sink {
  storage memory;
  zt::on_device<zt::initial_token> sink;

  device_sink(const machine& m, const problem& p)
      : memory(zt::device_table_bytes(shape_of(p))), sink(make(m, p, memory)) {}

 private:
  static zt::on_device<zt::initial_token> make(const machine& m, const problem& p,
                                               const storage& memory) {
    std::vector<float> gammas;
    for (long h = 0; h < p.heads; ++h)
      gammas.push_back(p.gamma.empty() ? 1.0f : static_cast<float>(p.gamma[size_t(h)]));
    const std::vector<zt::index_t> positions(p.initial.begin(), p.initial.end());
    zt::initial_token sink{zt::view_of(gammas)};
    if (!positions.empty()) sink = sink.at(zt::view_of(positions));
    return zt::to_device(m, sink, shape_of(p), memory.flat());
  }
};

/// Runs the problem under `modifier` (which the caller has made to say the same).
template <class T, class Modifier, class Dims = zt::all_head_dims>
attention_run<T> run_attention(const problem& p, const std::vector<T>& q, const std::vector<T>& k,
                               const std::vector<T>& v, const Modifier& modifier,
                               const run_options& options = {}, Dims dims = {}) {
  const device_array<T> dq(q), out(q.size() / size_t(p.dim) * size_t(p.value_dim));
  const device_array<float> lse(q.size() / size_t(p.dim));
  zt::device_attention_options o;
  o.softmax_scale = static_cast<float>(p.scale);
  o.lse = lse.view({p.batch, p.heads, p.q_len});
  o.keys_per_split = options.keys_per_split;

  std::vector<zt::device_sequence> sequences;
  for (long b = 0; b < p.batch; ++b) sequences.push_back({0, p.q_len, p.start(b), 0, p.length(b)});
  const storage table(zt::device_sequences_bytes(p.batch));
  if (!p.kv_length.empty() || !p.q_start.empty() || options.page_size > 0)
    o.sequences = zt::to_device(
        options.on, zt::tensor_view<const zt::device_sequence, 1>(sequences.data(), {p.batch}),
        table.flat());

  // Pages lie in the pool in reverse order; unused ones, and rows beyond a sequence's length,
  // hold NaN: nobody may read them.
  const long page_size = options.page_size;
  const long pages = page_size ? (p.kv_len + page_size - 1) / page_size : 0;
  std::vector<T> key_pool = k, value_pool = v;
  std::vector<std::int32_t> page_table;
  long pool = 0;
  if (page_size) {
    pool = p.batch * pages + 3;
    const auto nan = static_cast<T>(std::numeric_limits<float>::quiet_NaN());
    key_pool.assign(size_t(pool * p.kv_heads * page_size * p.dim), nan);
    value_pool.assign(size_t(pool * p.kv_heads * page_size * p.value_dim), nan);
    for (long b = 0; b < p.batch; ++b)
      for (long i = 0; i < pages; ++i) {
        page_table.push_back(static_cast<std::int32_t>(pool - 1 - (b * pages + i)));
        for (long g = 0; g < p.kv_heads; ++g)
          for (long j = i * page_size; j < std::min((i + 1) * page_size, p.length(b)); ++j) {
            const long to = (long(page_table.back()) * p.kv_heads + g) * page_size + j % page_size;
            const long from = (b * p.kv_heads + g) * p.kv_len + j;
            for (long d = 0; d < p.dim; ++d)
              key_pool[size_t(to * p.dim + d)] = k[size_t(from * p.dim + d)];
            for (long d = 0; d < p.value_dim; ++d)
              value_pool[size_t(to * p.value_dim + d)] = v[size_t(from * p.value_dim + d)];
          }
      }
  }
  const device_array<T> dk(key_pool), dv(value_pool);
  const storage table_of_pages(zt::device_pages_bytes(p.batch, pages));
  if (page_size)
    o.pages = zt::to_device(
        options.on, zt::tensor_view<const std::int32_t, 2>(page_table.data(), {p.batch, pages}),
        pool, table_of_pages.flat());
  const zt::index_t kv_batch = page_size ? pool : p.batch;
  const zt::index_t kv_rows = page_size ? page_size : p.kv_len;
  zt::attention_shape shape = shape_of(p);
  if (page_size) shape.kv_len = pages * page_size;
  const storage workspace(
      zt::attention_workspace_bytes(shape, p.kv_heads, p.value_dim, options.keys_per_split));
  o.workspace = workspace.flat();

  attention_run<T> run;
  run.plan = zt::attention(options.on, dq.view({p.batch, p.heads, p.q_len, p.dim}),
                           dk.view({kv_batch, p.kv_heads, kv_rows, p.dim}),
                           dv.view({kv_batch, p.kv_heads, kv_rows, p.value_dim}),
                           out.view({p.batch, p.heads, p.q_len, p.value_dim}), modifier, o, dims);
  run.out = out.read();
  run.lse = lse.read();
  return run;
}

template <class T>
struct inputs {
  std::vector<T> q, k, v;
  explicit inputs(const problem& p, unsigned seed = 1)
      : q(random_values<T>(size_t(p.batch * p.heads * p.q_len * p.dim), seed)),
        k(random_values<T>(size_t(p.batch * p.kv_heads * p.kv_len * p.dim), seed + 1)),
        v(random_values<T>(size_t(p.batch * p.kv_heads * p.kv_len * p.value_dim), seed + 2)) {}
};

/// Values and LSE within the bounds of docs/design.md, section 6.
template <class T>
void expect_close(const problem& p, const inputs<T>& in, const attention_run<T>& run) {
  const result exact = exact_attention(p, in.q, in.k, in.v);
  const result naive = naive_attention(p, in.q, in.k, in.v);
  std::vector<float> naive_out(naive.out.begin(), naive.out.end());
  const error_measure allowed = measure(naive_out, exact.out), got = measure(run.out, exact.out);
  EXPECT_FALSE(got.broken);
  EXPECT_LE(got.greatest, 2 * allowed.greatest + 1e-5);
  EXPECT_LE(got.nmse(), nmse_bound<T>);
  const error_measure lse = measure(run.lse, exact.lse);
  EXPECT_FALSE(lse.broken);
  // Products of 16-bit numbers are exact in float: the LSE is as good as in float.
  EXPECT_LE(lse.greatest, 5e-5);
}

}  // namespace zerotune_test
