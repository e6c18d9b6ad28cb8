// SPDX-License-Identifier: Apache-2.0
// The small test that every seeded fault must fail: `small CASE`. No test framework, so that a
// mutant is built in seconds; one case per executable part, chosen by ZEROTUNE_FAULT_CASE.
#include <cstdio>
#include <exception>
#include <string_view>

#include "machine.hpp"
#include "oracle.hpp"

namespace zt = zerotune;
using namespace zerotune_test;

/// Runs the kernels of the case and compiles no others: attention() names more than it launches.
struct case_machine : machine {};

template <class Kernel>
constexpr bool belongs_to_case() {
  const std::string_view name = Kernel::name;
#if ZEROTUNE_FAULT_CASE == 1
  return name == "flash_attention" && Kernel::threads > 32;
#elif ZEROTUNE_FAULT_CASE == 2
  return name == "merge_splits" || (name == "flash_attention" && Kernel::threads == 32);
#else
  return true;
#endif
}

template <>
struct zerotune::cuda::launcher<case_machine> : launcher<machine> {
  template <class Kernel>
  static void launch(const case_machine& m, const char* function, index_t blocks,
                     index_t shared_bytes, const typename Kernel::arguments& arguments) {
    if constexpr (belongs_to_case<Kernel>())
      launcher<machine>::launch<Kernel>(m, function, blocks, shared_bytes, arguments);
    else
      throw std::logic_error(std::string("not a kernel of this case: ") + Kernel::name);
  }
};

namespace {

int failures = 0;
void expect(bool condition, const char* what) {
  if (condition) return;
  ++failures;
  std::printf("failed: %s\n", what);
}

zt::on_device<zt::initial_token> make_sink(const machine& m, const problem& p,
                                           const storage& memory) {
  std::vector<float> gammas(p.gamma.begin(), p.gamma.end());
  const std::vector<zt::index_t> positions(p.initial.begin(), p.initial.end());
  zt::initial_token sink{zt::view_of(gammas)};
  if (!positions.empty()) sink = sink.at(zt::view_of(positions));
  return zt::to_device(m, sink, {p.batch, p.heads, p.q_len, p.kv_len}, memory.flat());
}

template <class T, class Dims>
void attention(const problem& p, long page_size, long keys_per_split, order o, Dims dims) {
  const auto q = random_values<T>(size_t(p.batch * p.heads * p.q_len * p.dim), 1);
  const auto k = random_values<T>(size_t(p.batch * p.kv_heads * p.kv_len * p.dim), 2);
  const auto v = random_values<T>(size_t(p.batch * p.kv_heads * p.kv_len * p.dim), 3);
  case_machine m;
  m.schedule = o;
  const storage memory(zt::device_table_bytes({p.batch, p.heads, p.q_len, p.kv_len}));
  const auto sink = make_sink(m, p, memory);
  std::vector<T> k_pool = k, v_pool = v;
  std::vector<std::int32_t> pages(1);
  zt::device_attention_options options;
  const storage table(zt::device_sequences_bytes(p.batch));
  std::vector<zt::device_sequence> sequences;
  for (long b = 0; b < p.batch; ++b) sequences.push_back({0, p.q_len, p.start(b), 0, p.length(b)});
  options.sequences = zt::to_device(
      m, zt::tensor_view<const zt::device_sequence, 1>(sequences.data(), {p.batch}), table.flat());
  const long count = page_size ? p.kv_len / page_size : 0;
  if (page_size) {  // batch 1, one key-value head: pages in reverse order
    pages.resize(size_t(count));
    for (long i = 0; i < count; ++i) {
      pages[size_t(i)] = std::int32_t(count - 1 - i);
      for (long j = 0; j < page_size * p.dim; ++j) {
        k_pool[size_t((count - 1 - i) * page_size * p.dim + j)] =
            k[size_t(i * page_size * p.dim + j)];
        v_pool[size_t((count - 1 - i) * page_size * p.dim + j)] =
            v[size_t(i * page_size * p.dim + j)];
      }
    }
  }
  const device_array<T> dq(q), dk(k_pool), dv(v_pool), out(q.size());
  const device_array<float> lse(q.size() / size_t(p.dim));
  const storage table_of_pages(zt::device_pages_bytes(1, count));
  if (page_size)
    options.pages =
        zt::to_device(m, zt::tensor_view<const std::int32_t, 2>(pages.data(), {1, count}), count,
                      table_of_pages.flat());
  options.lse = lse.view({p.batch, p.heads, p.q_len});
  options.keys_per_split = keys_per_split;
  const storage workspace(zt::attention_workspace_bytes({p.batch, p.heads, p.q_len, p.kv_len},
                                                        p.kv_heads, p.dim, keys_per_split));
  options.workspace = workspace.flat();
  const zt::index_t kv_batch = page_size ? count : p.batch, rows = page_size ? page_size : p.kv_len;
  zt::attention(
      m, dq.view({p.batch, p.heads, p.q_len, p.dim}), dk.view({kv_batch, p.kv_heads, rows, p.dim}),
      dv.view({kv_batch, p.kv_heads, rows, p.dim}), out.view({p.batch, p.heads, p.q_len, p.dim}),
      zt::causal{} | zt::sliding_window{p.window ? p.window : 1000} | sink, options, dims);
  const result exact = exact_attention(p, q, k, v), naive = naive_attention(p, q, k, v);
  const error_measure got = measure(out.read(), exact.out),
                      log_sums = measure(lse.read(), exact.lse);
  const error_measure allowed =
      measure(std::vector<float>(naive.out.begin(), naive.out.end()), exact.out);
  expect(!got.broken && got.greatest <= 2 * allowed.greatest + 1e-5, "values");
  expect(!log_sums.broken && log_sums.greatest < 5e-5, "log-sum-exp");
}

[[maybe_unused]] problem example(long heads, long kv_heads, long q_len, long kv_len) {
  problem p;
  p.heads = heads;
  p.kv_heads = kv_heads;
  p.q_len = q_len;
  p.kv_len = kv_len;
  for (long h = 0; h < heads; ++h) p.gamma.push_back(h % 2 ? 0.25 : 5.0);
  return p;
}

void run() {
#if ZEROTUNE_FAULT_CASE == 1  // prefill
  for (const order o : {order::forward, order::reverse}) {
    attention<zt::float16>(example(4, 2, 70, 130), 0, 0, o, zt::head_dims<64>{});
    problem p = example(1, 1, 70, 70);
    p.window = 20;
    attention<zt::float16>(p, 0, 0, o, zt::head_dims<64>{});
    p.gamma = {0.0};
    p.window = 0;
    attention<zt::float16>(p, 0, 0, o, zt::head_dims<64>{});
    p.initial = {9};
    attention<zt::float16>(p, 0, 0, o, zt::head_dims<64>{});
  }
#elif ZEROTUNE_FAULT_CASE == 2  // decode
  attention<zt::float16>(example(4, 1, 1, 192), 64, 64, order::forward, zt::head_dims<64>{});
  problem p = example(8, 2, 1, 192);
  p.batch = 2;
  p.kv_length = {192, 100};
  attention<zt::float16>(p, 0, 64, order::random, zt::head_dims<64>{});
#elif ZEROTUNE_FAULT_CASE == 3  // without tensor cores
  for (const order o : {order::forward, order::reverse})
    attention<float>(example(4, 2, 20, 70), 0, 0, o, zt::head_dims<>{});
#elif ZEROTUNE_FAULT_CASE == 4  // rows
  const machine m;
  problem p = example(2, 2, 5, 70);
  p.gamma = {1e-6, 3.0};
  const storage memory(zt::device_table_bytes({1, 2, 5, 70}));
  const auto sink = make_sink(m, p, memory);
  std::vector<float> weights(2 * 5 * 70, 0.0f);
  for (std::size_t r = 0; r < 10; ++r) {
    weights[r * 70] = 0.99997f;
    weights[r * 70 + 60] = 3e-5f;
  }
  const device_array<float> rows(weights), lse(10);
  zt::rescale_weights(m, rows.view({1, 2, 5, 70}), zt::causal{} | sink);
  const auto got = rows.read();
  for (std::size_t r = 0; r < 10; ++r) {
    const double a0 = double(weights[0]), rest = double(weights[60]), g = p.gamma[r / 5];
    const double d = (g * a0 + rest) / (a0 + rest);
    expect(std::abs(double(got[r * 70]) - g * a0 / d) < 1e-5, "weight");
    expect(std::abs(double(got[r * 70 + 60]) - rest / d) < 1e-5, "weight of another token");
  }
  {  // one query, one key: the output is the value, the LSE moves by log gamma
    const std::vector<float> ones(4, 1.0f);
    const device_array<float> q(ones), k(ones), v(ones), out(ones), sums(2);
    copy_device(sums.data(), ones.data(), 2 * sizeof(float));
    const storage one(zt::device_table_bytes({1, 2, 1, 1}));
    problem lone = p;
    lone.kv_len = 1;
    const auto lone_sink = make_sink(m, lone, one);
    zt::correct_output(m, out.view({1, 2, 1, 2}), sums.view({1, 2, 1}), q.view({1, 2, 1, 2}),
                       k.view({1, 2, 1, 2}), v.view({1, 2, 1, 2}), zt::causal{} | lone_sink);
    const auto after = sums.read();
    for (std::size_t h = 0; h < 2; ++h)
      expect(std::abs(double(after[h]) - 1.0 - std::log(p.gamma[h])) < 1e-5,
             "log-sum-exp of a row that sees the token only");
  }
  for (const order o : {order::forward, order::reverse}) {
    machine ordered;
    ordered.schedule = o;
    const device_array<float> logits(random_values<float>(2 * 5 * 72, 1)), out(2 * 5 * 72);
    zt::device_softmax_options options;
    options.lse = lse.view({1, 2, 5});
    zt::softmax(ordered, logits.view({1, 2, 5, 72}), out.view({1, 2, 5, 72}), sink, options);
    const auto y = out.read(), x = logits.read(), l = lse.read();
    for (std::size_t r = 0; r < 10; ++r) {
      double sum = 0;
      for (std::size_t j = 0; j < 72; ++j)
        sum += std::exp(double(x[r * 72 + j])) * (j == 0 ? double(p.gamma[r / 5]) : 1.0);
      expect(std::abs(double(l[r]) - std::log(sum)) < 1e-5, "log-sum-exp of a row");
      expect(std::abs(double(y[r * 72 + 5]) - std::exp(double(x[r * 72 + 5])) / sum) < 1e-6,
             "softmax");
    }
  }
#endif
}

}  // namespace

int main() {
  try {
    run();
  } catch (const std::exception& e) {
    std::printf("failed: %s\n", e.what());
    ++failures;
  }
  if (!failures) std::puts("passed");
  return failures ? 1 : 0;
}
