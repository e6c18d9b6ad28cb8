// SPDX-License-Identifier: Apache-2.0
// Every kernel once or twice, small: what the sanitizers run (see README.md), and a smoke test.
#include "attention_case.hpp"

namespace zerotune_test {
namespace {

template <class T, class Dims>
void run_case(const problem& p, long keys_per_split, long page_size, bool tensor_cores, Dims dims) {
#if defined(__SANITIZE_THREAD__)
  const std::vector<order> orders = {order::random};  // a race shows in any of them
#else
  const std::vector<order> orders = {order::forward, order::random};
#endif
  for (const order o : orders) {
    const inputs<T> in(p);
    const device_sink sink(machine{}, p);
    run_options options;
    options.on.schedule = o;
    options.on.tensor_cores = tensor_cores;
    options.keys_per_split = keys_per_split;
    options.page_size = page_size;
    expect_close(p, in,
                 run_attention(p, in.q, in.k, in.v, zt::causal{} | sink.sink, options, dims));
  }
}

TEST(sanitized, prefill) {
  problem p;
  p.batch = 2;
  p.heads = 2;
  p.kv_heads = 1;
  p.q_len = 70;
  p.kv_len = 131;
  p.kv_length = {131, 90};
  p.initial = {3, 0};
  p.gamma = {2.0, 0.0};
  run_case<zt::float16>(p, 0, 0, true, zt::head_dims<64>{});
}

// The properties that cost no other kernel; the other files have them for every kernel.
TEST(sanitized, prefill_lengths_gammas_and_groups) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the same accesses as in the case above";
#endif
  for (const long length : {1, 2, 15, 17, 63, 64, 65, 128, 129}) {
    SCOPED_TRACE(length);
    problem p;
    p.q_len = p.kv_len = length;
    p.heads = 4;
    p.gamma = {0.0, 1.0, 3.0, 1e38};
    run_case<zt::float16>(p, 0, 0, true, zt::head_dims<64>{});
  }
  for (const long group : {1, 2, 4, 8}) {
    SCOPED_TRACE(group);
    problem p;
    p.batch = 2;
    p.heads = 8;
    p.kv_heads = 8 / group;
    p.q_len = 20;
    p.kv_len = 40;
    p.initial = {0, 33};  // left padding: some rows see nothing
    p.gamma = {0.0, 1.0, 3.0, 1e38, 1e-40, 0.5, 1.0, 2.0};
    run_case<zt::float16>(p, 0, 0, true, zt::head_dims<64>{});
  }
}

TEST(sanitized, decode_splits_and_groups) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the same accesses as in the case below";
#endif
  for (const long group : {1, 2, 8})
    for (const long kv_len : {1, 64, 65, 129}) {
      SCOPED_TRACE(std::to_string(group) + " heads a group, " + std::to_string(kv_len) + " keys");
      problem p;
      p.heads = 8;
      p.kv_heads = 8 / group;
      p.kv_len = kv_len;
      p.gamma = {0.0, 1.0, 3.0, 1e38, 1e-40, 0.5, 1.0, 2.0};
      run_case<zt::float16>(p, 64, 0, true, zt::head_dims<64>{});
    }
}

TEST(sanitized, nan_reaches_only_rows_that_see_it) {
  problem p;
  p.q_len = p.kv_len = 70;
  p.gamma = {2.0};
  inputs<zt::float16> in(p);
  in.k[40 * 64 + 5] = zt::float16(std::numeric_limits<float>::quiet_NaN());
  in.k[60 * 64 + 5] = zt::float16(-std::numeric_limits<float>::infinity());
  const device_sink sink(machine{}, p);
  const auto run =
      run_attention(p, in.q, in.k, in.v, zt::causal{} | sink.sink, {}, zt::head_dims<64>{});
  for (long i = 0; i < 70; ++i)
    for (long d = 0; d < 64; ++d)
      ASSERT_EQ(std::isnan(float(run.out[size_t(i * 64 + d)])), i >= 40) << i;
}

TEST(sanitized, prefill_80_and_256) {
  problem p;
  p.q_len = 20;
  p.kv_len = 50;
  p.gamma = {2.0};
  p.dim = p.value_dim = 80;
  run_case<zt::bfloat16>(p, 0, 0, true, zt::head_dims<80>{});
  p.dim = p.value_dim = 256;
  run_case<zt::bfloat16>(p, 0, 0, true, zt::head_dims<256>{});
}

TEST(sanitized, decode) {
  problem p;
  p.batch = 2;
  p.heads = 4;
  p.q_len = 1;
  p.kv_len = 150;
  p.kv_length = {150, 70};
  p.gamma = {2.0, 0.0, 1.0, 0.5};
  run_case<zt::float16>(p, 64, 16, true, zt::head_dims<64>{});
}

TEST(sanitized, generic) {
  problem p;
  p.heads = 2;
  p.q_len = 18;
  p.kv_len = 70;
  p.dim = 40;
  p.value_dim = 130;
  p.gamma = {2.0, 0.0};
  p.kv_heads = 2;
  run_case<float>(p, 64, 0, false, zt::head_dims<>{});
  p.dim = 41;
  run_case<float>(p, 0, 0, false, zt::head_dims<>{});
}

TEST(sanitized, rows) {
  const machine m;
  const zt::attention_shape shape{1, 2, 3, 70};
  const std::vector<float> gammas = {2.0f, 0.0f};
  const storage memory(zt::device_table_bytes(shape));
  const auto sink = zt::to_device(m, zt::initial_token{zt::view_of(gammas)}, shape, memory.flat());
  const device_array<float> logits(random_values<float>(2 * 3 * 72, 1)), weights(2 * 3 * 72);
  const device_array<float> mask(2 * 3 * 70), lse(2 * 3);
  const auto mask_view = mask.view({1, 2, 3, 70});
  zt::fill_mask(m, mask_view, zt::causal{} | sink);
  zt::bias_logits(m, logits.view({1, 2, 3, 72}), zt::causal{} | sink);
  zt::device_softmax_options options;
  options.lse = lse.view({1, 2, 3});
  zt::softmax(m, logits.view({1, 2, 3, 72}), weights.view({1, 2, 3, 72}), zt::causal{} | sink,
              options);
  zt::rescale_weights(m, weights.view({1, 2, 3, 72}), zt::causal{} | sink);
  zt::softmax(m, mask_view, mask_view, zt::causal{} | sink, options);
  const auto got = weights.read();
  for (std::size_t r = 0; r < 6; ++r) {
    double sum = 0;
    for (std::size_t j = 0; j < 72; ++j) sum += double(got[r * 72 + j]);
    EXPECT_NEAR(sum, 1.0, 1e-5);
    EXPECT_EQ(mask.read()[r * 70 + 69] > 0, r % 3 == 2);
  }
}

TEST(sanitized, outputs_and_keys) {
  const machine m;
  problem p;
  p.heads = 4;
  p.kv_heads = 2;
  p.q_len = p.kv_len = 9;
  p.dim = 40;
  p.value_dim = 50;
  p.gamma = {2.0, 0.0, 1.0, 0.5};
  const inputs<zt::float16> in(p);
  const device_sink sink(m, p);
  const device_array<zt::float16> q(in.q), k(in.k), v(in.v), out(in.v.size() * 2),
      k_out(2 * 9 * 42), q_out(4 * 9 * 42);
  const device_array<float> lse(std::vector<float>(4 * 9, 3.0f));
  const device_array<double> gradient(4);
  const auto q_view = q.view({1, 4, 9, 40});
  const auto k_view = k.view({1, 2, 9, 40}), v_view = v.view({1, 2, 9, 50});
  const auto out_view = out.view({1, 4, 9, 50});
  copy_device(out.data(), in.v.data(), in.v.size() * 2);
  copy_device(out.data() + in.v.size(), in.v.data(), in.v.size() * 2);
  zt::correct_output(m, out_view, lse.view({1, 4, 9}), q_view, k_view, v_view,
                     zt::causal{} | sink.sink);
  zt::gamma_gradient(
      m, out_view, zt::tensor_view<const zt::float16, 4, zt::device_memory>(out_view),
      lse.view({1, 4, 9}), q_view, k_view, v_view, sink.sink, zt::causal{}, gradient.view({1, 4}));
  zt::augment_query(m, q_view, q_out.view({1, 4, 9, 42}), zt::causal{} | sink.sink, 9, 0.2);
  zt::augment_key(m, k_view, k_out.view({1, 2, 9, 42}), sink.sink);
  zt::sink_mass(m, q.view({1, 4, 9, 40}), gradient.view({1, 4}), sink.sink, zt::identity{});
  const storage factors(zt::scale_keys_bytes(1, 2));
  zt::scale_keys(m, k_view, zt::key_scale{1.5f}, 4, factors.flat());
  EXPECT_EQ(float(k.read()[0]), float(zt::float16(float(in.k[0]) * 1.5f)));
}

}  // namespace
}  // namespace zerotune_test
