// SPDX-License-Identifier: Apache-2.0
// Tensor-core attention (prefill) against the double oracle, and its properties.
#include "attention_case.hpp"
#include "zerotune/apply/attention.hpp"

namespace zerotune_test {

// A modifier written once runs on host and device: no support(), so every key is asked. Not in an
// unnamed namespace: compilers name those differently, and its PTX is looked up by its name.
struct distance_penalty {
  float slope;
  template <class Batch>
  ZEROTUNE_HOST_DEVICE Batch log_bias(zt::row r, Batch kv_pos) const {
    using real = typename std::decay<decltype(Batch(0))>::type;
    return Batch(real(-slope)) * (Batch(real(r.q_pos)) - kv_pos);
  }
  ZEROTUNE_HOST_DEVICE zt::tile_effect effect(int, zt::range, zt::range) const {
    return zt::tile_effect::apply;
  }
};

namespace {

using dims64 = zt::head_dims<64>;
constexpr auto prefill = zt::device_attention_plan::kernel_type::flash_prefill;

template <class T>
class flash : public ::testing::Test {};
using halves = ::testing::Types<zt::float16, zt::bfloat16>;
TYPED_TEST_SUITE(flash, halves);

problem small(long q_len, long kv_len, long heads = 1, long kv_heads = 1) {
  problem p;
  p.q_len = q_len;
  p.kv_len = kv_len;
  p.heads = heads;
  p.kv_heads = kv_heads;
  return p;
}

template <class T, class Dims = dims64>
void check_sink(const problem& p, unsigned seed = 1, Dims dims = {}) {
  const inputs<T> in(p, seed);
  const device_sink sink(machine{}, p);
  const auto run = run_attention(p, in.q, in.k, in.v, zt::causal{} | sink.sink, {}, dims);
  EXPECT_NE(run.plan.kernel, zt::device_attention_plan::kernel_type::generic);
  expect_close(p, in, run);
}

/// The host's attention.
template <class T, class Modifier>
attention_run<T> run_host(const problem& p, const inputs<T>& in, const Modifier& modifier) {
  attention_run<T> host;
  host.out.resize(in.q.size());
  host.lse.resize(in.q.size() / size_t(p.dim));
  zt::attention_options<float> options;
  options.lse = zt::tensor_view<float, 3>(host.lse.data(), {p.batch, p.heads, p.q_len});
  using input = zt::tensor_view<const T, 4>;
  zt::attention(input(in.q.data(), {p.batch, p.heads, p.q_len, p.dim}),
                input(in.k.data(), {p.batch, p.kv_heads, p.kv_len, p.dim}),
                input(in.v.data(), {p.batch, p.kv_heads, p.kv_len, p.dim}),
                zt::tensor_view<T, 4>(host.out.data(), {p.batch, p.heads, p.q_len, p.dim}),
                modifier, options);
  return host;
}

TYPED_TEST(flash, lengths_up_to_two_tiles) {
  for (const long length : {1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129}) {
    SCOPED_TRACE(length);
    problem p = small(length, length);
    p.gamma = {3.0};
    check_sink<TypeParam>(p, static_cast<unsigned>(length));
  }
}

TYPED_TEST(flash, queries_are_the_last_positions) {
  problem p = small(20, 97, 2, 2);
  p.gamma = {0.3, 5.0};
  check_sink<TypeParam>(p);
}

TYPED_TEST(flash, gammas) {
  for (const double gamma : {0.0, 1e-40, 1e-6, 0.5, 1.0, 7.0, 1e38}) {
    SCOPED_TRACE(gamma);
    problem p = small(33, 70);
    p.gamma = {gamma};
    check_sink<TypeParam>(p);
    p.q_len = p.kv_len = 33;  // row 0 sees the initial token only
    check_sink<TypeParam>(p);
  }
}

TYPED_TEST(flash, groups) {
  const double gammas[] = {1, 2, 0, 0.5, 4, 9, 1e38};
  for (const long group : {1, 2, 3, 4, 5, 6, 7, 8}) {
    SCOPED_TRACE(group);
    problem p = small(40, 40, 2 * group, 2);
    for (long h = 0; h < p.heads; ++h) p.gamma.push_back(gammas[h % 7]);
    check_sink<TypeParam>(p);
  }
}

TYPED_TEST(flash, left_padding_and_ragged_lengths) {
  problem p = small(30, 90, 2, 1);
  p.batch = 4;
  p.gamma = {2.0, 0.0};
  p.initial = {0, 7, 70, 20};
  p.kv_length = {90, 80, 90, 64};
  check_sink<TypeParam>(p);
}

TYPED_TEST(flash, a_sequence_without_keys_gets_zeros) {
  problem p = small(17, 20);
  p.batch = 2;
  p.kv_length = {0, 20};
  p.gamma = {2.0};
  check_sink<TypeParam>(p);
}

TYPED_TEST(flash, softcap_comes_before_the_bias) {
  problem p = small(40, 70);
  p.gamma = {6.0};
  p.cap = 3.0;
  p.scale = 0.5;
  const inputs<TypeParam> in(p);
  const device_sink sink(machine{}, p);
  const auto run = run_attention(p, in.q, in.k, in.v, zt::softcap{3.0f} | zt::causal{} | sink.sink,
                                 {}, dims64{});
  EXPECT_EQ(run.plan.kernel, prefill);
  expect_close(p, in, run);
}

TYPED_TEST(flash, window) {
  for (const long window : {1, 16, 50, 64, 200}) {
    SCOPED_TRACE(window);
    problem p = small(140, 140);
    p.gamma = {6.0};
    p.window = window;
    const inputs<TypeParam> in(p);
    const device_sink sink(machine{}, p);
    const auto masks = zt::causal{} | zt::sliding_window{window};
    const auto run = run_attention(p, in.q, in.k, in.v, masks | sink.sink, {}, dims64{});
    EXPECT_EQ(run.plan.kernel, prefill);
    expect_close(p, in, run);
    // A row that the window bars from the initial token is as if there were no gamma.
    const auto plain = run_attention(p, in.q, in.k, in.v, masks, {}, dims64{});
    for (long i = window; i < p.q_len; ++i)
      for (long d = 0; d < p.dim; ++d)
        ASSERT_EQ(run.out[size_t(i * p.dim + d)].bits, plain.out[size_t(i * p.dim + d)].bits);
  }
}

TYPED_TEST(flash, untouched_heads_keep_their_bits) {
  problem p = small(66, 130, 4, 1);
  p.gamma = {1.0, 3.0, 1.0, 0.0};
  const inputs<TypeParam> in(p);
  const device_sink sink(machine{}, p);
  const auto run = run_attention(p, in.q, in.k, in.v, zt::causal{} | sink.sink, {}, dims64{});
  const auto plain = run_attention(p, in.q, in.k, in.v, zt::causal{}, {}, dims64{});
  for (const long h : {0, 2})
    for (long i = h * p.q_len; i < (h + 1) * p.q_len; ++i) {
      ASSERT_EQ(run.lse[size_t(i)], plain.lse[size_t(i)]);
      for (long d = 0; d < p.dim; ++d)
        ASSERT_EQ(run.out[size_t(i * p.dim + d)].bits, plain.out[size_t(i * p.dim + d)].bits);
    }
}

TYPED_TEST(flash, gamma_n_is_n_copies_of_the_initial_token) {
  problem p = small(30, 50);
  p.gamma = {3.0};
  const inputs<TypeParam> in(p);
  const device_sink sink(machine{}, p);
  const auto run = run_attention(p, in.q, in.k, in.v, zt::causal{} | sink.sink, {}, dims64{});
  problem copies = small(30, 52);
  inputs<TypeParam> repeated(copies);
  repeated.q = in.q;
  for (long j = 0; j < 52; ++j)
    for (long d = 0; d < 64; ++d) {
      const long from = (j < 3 ? 0 : j - 2) * 64 + d;
      repeated.k[size_t(j * 64 + d)] = in.k[size_t(from)];
      repeated.v[size_t(j * 64 + d)] = in.v[size_t(from)];
    }
  expect_close(copies, repeated, run);
}

TYPED_TEST(flash, nan_reaches_only_rows_that_see_it) {
  problem p = small(70, 70);
  p.gamma = {2.0};
  inputs<TypeParam> in(p);
  in.k[40 * 64 + 5] = TypeParam(std::numeric_limits<float>::quiet_NaN());
  in.q[10 * 64 + 7] = TypeParam(std::numeric_limits<float>::infinity());
  const device_sink sink(machine{}, p);
  const auto run = run_attention(p, in.q, in.k, in.v, zt::causal{} | sink.sink, {}, dims64{});
  for (long i = 0; i < 70; ++i) {
    const bool broken = i >= 40 || i == 10;
    EXPECT_EQ(std::isnan(run.lse[size_t(i)]), broken) << i;
    for (long d = 0; d < 64; ++d)
      ASSERT_EQ(std::isnan(static_cast<float>(run.out[size_t(i * 64 + d)])), broken) << i;
  }
}

// A product of -inf would vanish in a maximum: the row must be NaN, not look healthy.
TYPED_TEST(flash, an_infinite_product_is_not_hidden) {
  problem p = small(8, 8);
  inputs<TypeParam> in(p);
  for (long i = 0; i < 8 * 64; ++i) in.q[size_t(i)] = TypeParam(1.0f);
  in.k[3 * 64] = TypeParam(-std::numeric_limits<float>::infinity());
  const auto run = run_attention(p, in.q, in.k, in.v, zt::causal{}, {}, dims64{});
  for (long i = 0; i < 8; ++i) EXPECT_EQ(std::isnan(run.lse[size_t(i)]), i >= 3) << i;
}

// Keys beyond a sequence's end, and padding before its initial token, are never read.
TYPED_TEST(flash, hidden_keys_and_values_are_not_read) {
  problem p = small(20, 100);
  p.kv_length = {77};
  p.initial = {9};
  p.gamma = {2.0};
  inputs<TypeParam> in(p);
  const inputs<TypeParam> clean(p);
  for (long j = 0; j < 100; ++j)
    if (j < 9 || j >= 77)
      for (long d = 0; d < 64; ++d)
        in.k[size_t(j * 64 + d)] = in.v[size_t(j * 64 + d)] =
            TypeParam(std::numeric_limits<float>::quiet_NaN());
  const device_sink sink(machine{}, p);
  expect_close(p, clean,
               run_attention(p, in.q, in.k, in.v, zt::causal{} | sink.sink, {}, dims64{}));
}

TYPED_TEST(flash, results_do_not_depend_on_the_order_of_threads) {
  problem p = small(70, 70, 2, 1);
  p.gamma = {2.0, 0.5};
  const inputs<TypeParam> in(p);
  const device_sink sink(machine{}, p);
  attention_run<TypeParam> runs[3];
  for (const order o : {order::forward, order::reverse, order::random}) {
    run_options options;
    options.on.schedule = o;
    runs[static_cast<int>(o)] =
        run_attention(p, in.q, in.k, in.v, zt::causal{} | sink.sink, options, dims64{});
  }
  for (const int i : {1, 2}) {
    EXPECT_EQ(runs[i].lse, runs[0].lse);
    for (std::size_t j = 0; j < runs[0].out.size(); ++j)
      ASSERT_EQ(runs[i].out[j].bits, runs[0].out[j].bits);
  }
}

TEST(flash_dims, all_head_dims) {
  for (const long dim : {64, 80, 96, 128, 256}) {
    SCOPED_TRACE(dim);
    problem p = small(35, 100);
    p.dim = p.value_dim = dim;
    p.gamma = {4.0};
    check_sink<zt::float16>(p, 3, zt::all_head_dims{});
    check_sink<zt::bfloat16>(p, 4, zt::all_head_dims{});
    p.heads = 4;  // decode: one key-value head, two splits
    p.q_len = 1;
    p.kv_len = 530;
    p.gamma = {4.0, 0.0, 1.0, 0.5};
    check_sink<zt::float16>(p, 5, zt::all_head_dims{});
    check_sink<zt::bfloat16>(p, 6, zt::all_head_dims{});
  }
}

// The host's attention and the device's, each within its bound of the same oracle, and so within
// the sum of both of one another.
TYPED_TEST(flash, host_and_device_agree) {
  problem p = small(40, 90, 4, 2);
  p.gamma = {4.0, 0.0, 1.0, 1e38};
  const inputs<TypeParam> in(p);
  const device_sink sink(machine{}, p);
  const auto run = run_attention(p, in.q, in.k, in.v, zt::causal{} | sink.sink, {}, dims64{});
  expect_close(p, in, run);
  const std::vector<float> gammas(p.gamma.begin(), p.gamma.end());
  const auto host = run_host(p, in, zt::causal{} | zt::initial_token{zt::view_of(gammas)});
  expect_close(p, in, host);
  for (std::size_t i = 0; i < run.lse.size(); ++i)
    ASSERT_NEAR(double(run.lse[i]), double(host.lse[i]), 1e-4);
}

// Sequences one after the other without padding: the same bits as each alone.
TEST(flash_packed, equals_each_sequence_alone) {
  using T = zt::float16;
  const long lengths[3] = {5, 70, 33}, heads = 2;
  std::vector<zt::device_sequence> sequences;
  long rows = 0;
  for (const long length : lengths) {
    sequences.push_back({rows, length, 0, rows, length});
    rows += length;
  }
  const std::vector<T> q = random_values<T>(size_t(heads * rows * 64), 1),
                       k = random_values<T>(size_t(rows * 64), 2),
                       v = random_values<T>(size_t(rows * 64), 3);
  problem whole;
  whole.batch = 3;
  whole.heads = heads;
  whole.q_len = whole.kv_len = 70;
  whole.gamma = {3.0, 0.5};
  const machine m;
  const device_sink sink(m, whole);
  const device_array<T> dq(q), dk(k), dv(v), out(q.size());
  const device_array<float> lse(size_t(heads * rows));
  const storage table(zt::device_sequences_bytes(3));
  zt::device_attention_options o;
  o.lse = lse.view({1, heads, rows});
  o.sequences = zt::to_device(
      m, zt::tensor_view<const zt::device_sequence, 1>(sequences.data(), {3}), table.flat());
  zt::attention(m, dq.view({1, heads, rows, 64}), dk.view({1, 1, rows, 64}),
                dv.view({1, 1, rows, 64}), out.view({1, heads, rows, 64}), zt::causal{} | sink.sink,
                o, dims64{});
  const auto all = out.read();
  for (const auto& s : sequences) {
    problem p = small(s.q_length, s.q_length, heads, 1);
    p.gamma = whole.gamma;
    inputs<T> in(p);
    for (long h = 0; h < heads; ++h)
      for (long i = 0; i < s.q_length * 64; ++i)
        in.q[size_t(h * s.q_length * 64 + i)] = q[size_t((h * rows + s.q_offset) * 64 + i)];
    in.k.assign(&k[size_t(s.q_offset * 64)], &k[size_t(s.q_offset * 64)] + s.q_length * 64);
    in.v.assign(&v[size_t(s.q_offset * 64)], &v[size_t(s.q_offset * 64)] + s.q_length * 64);
    const device_sink alone(m, p);
    const auto run = run_attention(p, in.q, in.k, in.v, zt::causal{} | alone.sink, {}, dims64{});
    expect_close(p, in, run);
    if (run.plan.kernel != prefill) continue;  // a few rows alone are decoded: close, not equal
    for (long h = 0; h < heads; ++h)
      for (long i = 0; i < s.q_length * 64; ++i)
        ASSERT_EQ(run.out[size_t(h * s.q_length * 64 + i)].bits,
                  all[size_t((h * rows + s.q_offset) * 64 + i)].bits);
  }
}

// The same modifier on the device and on the host.
TEST(flash_modifiers, a_users_modifier) {
  problem p = small(40, 90);
  p.gamma = {0.0};
  p.bias = [](long, long q, long j) { return -0.25 * double(q - j); };
  const inputs<zt::float16> in(p);
  const device_sink sink(machine{}, p);
  const auto run = run_attention(p, in.q, in.k, in.v,
                                 distance_penalty{0.25f} | zt::causal{} | sink.sink, {}, dims64{});
  EXPECT_EQ(run.plan.kernel, prefill);
  expect_close(p, in, run);
  const std::vector<float> gammas(p.gamma.begin(), p.gamma.end());
  expect_close(
      p, in,
      run_host(p, in,
               distance_penalty{0.25f} | zt::causal{} | zt::initial_token{zt::view_of(gammas)}));
}

}  // namespace
}  // namespace zerotune_test
