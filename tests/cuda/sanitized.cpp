// SPDX-License-Identifier: Apache-2.0
// Every kernel once or twice, small, each value checked: what the sanitizers run, and CI with
// nvcc's PTX (see README.md).
#include "attention_case.hpp"
#include "output_case.hpp"

namespace zerotune_test {
namespace {

template <class T, class Dims, class Before = zt::causal>
void run_case(const problem& p, long keys_per_split, long page_size, bool tensor_cores, Dims dims,
              const Before& before = {}) {
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
    expect_close(p, in, run_attention(p, in.q, in.k, in.v, before | sink.sink, options, dims));
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

TEST(sanitized, softcap_and_window_at_80) {
  problem p;
  p.heads = 2;
  p.q_len = 20;
  p.kv_len = 90;
  p.gamma = {2.0, 0.0};
  p.dim = p.value_dim = 80;
  p.cap = 3.0;
  p.window = 75;  // bars the last rows from the initial token
  const auto before = zt::softcap{3.0f} | zt::causal{} | zt::sliding_window{p.window};
  run_case<zt::bfloat16>(p, 0, 0, true, zt::head_dims<80>{}, before);
  p.q_len = 3;  // decode
  run_case<zt::bfloat16>(p, 64, 0, true, zt::head_dims<80>{}, before);
}

TEST(sanitized, prefill_and_decode_at_256) {
  problem p;
  p.q_len = 20;
  p.kv_len = 50;
  p.gamma = {2.0};
  p.dim = p.value_dim = 256;
  run_case<zt::bfloat16>(p, 0, 0, true, zt::head_dims<256>{});
  p.q_len = 1;
  p.kv_len = 70;
  run_case<zt::bfloat16>(p, 64, 16, true, zt::head_dims<256>{});
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

// One form after the other: the mask takes gamma once; the weights take it from bias_logits, from
// softmax and from rescale_weights.
TEST(sanitized, rows) {
  constexpr std::size_t heads = 2, rows = 3, keys = 70;
  const machine m;
  const zt::attention_shape shape{1, heads, rows, keys};
  const std::vector<float> gammas = {2.0f, 0.0f};
  const storage memory(zt::device_table_bytes(shape));
  const auto sink = zt::to_device(m, zt::initial_token{zt::view_of(gammas)}, shape, memory.flat());
  const auto x = random_values<float>(heads * rows * keys, 1);
  const device_array<float> logits(x), weights(x.size()), mask(x.size()), softmaxed_mask(x.size());
  const device_array<float> lse(heads * rows);
  const auto view = [](const device_array<float>& a) { return a.view({1, heads, rows, keys}); };
  zt::device_softmax_options options;
  options.lse = lse.view({1, heads, rows});
  zt::fill_mask(m, view(mask), zt::causal{} | sink);
  zt::softmax(m, view(mask), view(softmaxed_mask), zt::causal{});
  zt::bias_logits(m, view(logits), zt::causal{} | sink);
  zt::softmax(m, view(logits), view(weights), zt::causal{} | sink, options);
  zt::rescale_weights(m, view(weights), zt::causal{} | sink);

  const auto biased = logits.read(), got = weights.read(), biases = mask.read(),
             of_mask = softmaxed_mask.read(), sums = lse.read();
  for (std::size_t r = 0; r < heads * rows; ++r) {
    SCOPED_TRACE("row " + std::to_string(r));
    const double gamma = double(gammas[r / rows]);
    const std::size_t seen = keys - rows + 1 + r % rows;
    double others = 0;
    for (std::size_t j = 1; j < seen; ++j) others += std::exp(double(x[r * keys + j]));
    const double first = std::exp(double(x[r * keys]));
    EXPECT_NEAR(double(sums[r]), std::log(others + gamma * gamma * first), 1e-5);
    for (std::size_t j = 0; j < keys; ++j) {
      const std::size_t at = r * keys + j;
      const bool is_seen = j < seen, initial = j == 0;
      if (!is_seen)
        EXPECT_EQ(biased[at], -std::numeric_limits<float>::infinity());
      else if (!initial)
        EXPECT_EQ(biased[at], x[at]);
      else if (gamma > 0)
        EXPECT_NEAR(double(biased[at]), double(x[at]) + std::log(gamma), 1e-6);
      else
        EXPECT_TRUE(std::isfinite(biased[at]) && biased[at] < -1e4f);
      EXPECT_EQ(std::isinf(biases[at]), !is_seen);
      const double times = initial ? gamma : 1.0;
      const double e = is_seen ? times * times * times * std::exp(double(x[at])) : 0.0;
      EXPECT_NEAR(double(got[at]), e / (others + gamma * gamma * gamma * first), 1e-6);
      EXPECT_NEAR(double(of_mask[at]), is_seen ? times / (double(seen - 1) + gamma) : 0.0, 1e-6);
    }
  }
}

problem small_output() {
  problem p;
  p.heads = 4;
  p.kv_heads = 2;
  p.q_len = p.kv_len = 9;
  p.dim = 40;
  p.value_dim = 50;
  p.gamma = {2.0, 0.0, 1.0, 0.5};
  return p;
}

TEST(sanitized, outputs) {
  using T = zt::float16;
  const problem p = small_output();
  problem plain = p;
  plain.gamma.clear();
  const machine m;
  const inputs<T> in(p);
  const device_sink sink(m, p);
  const result black_box = exact_attention(plain, in.q, in.k, in.v);
  const result wanted = exact_attention(p, in.q, in.k, in.v);
  const device_array<T> q(in.q), k(in.k), v(in.v), out(rounded<T>(black_box.out)),
      by_mass(rounded<T>(black_box.out));
  const device_array<float> lse(rounded<float>(black_box.lse)),
      mass(rounded<float>(black_box.mass));
  const device_array<std::uint8_t> status(4 * 9);
  const auto q_view = q.view({1, 4, 9, 40});
  const auto k_view = k.view({1, 2, 9, 40}), v_view = v.view({1, 2, 9, 50});
  zt::device_output_options options;
  options.status = status.view({1, 4, 9});
  options.min_d = 1e-2f;
  zt::correct_output(m, out.view({1, 4, 9, 50}), lse.view({1, 4, 9}), q_view, k_view, v_view,
                     zt::causal{} | sink.sink, options);
  EXPECT_GT(
      check_correction(p, black_box, wanted, 1e-2, 4e-3, status.read(), out.read(), lse.read()),
      20);
  using rows = zt::tensor_view<const float, 3, zt::device_memory>;
  zt::correct_output_by_mass(m, by_mass.view({1, 4, 9, 50}), rows(mass.view({1, 4, 9})), v_view,
                             zt::causal{} | sink.sink, options);
  EXPECT_GT(check_correction(p, black_box, wanted, 1e-2, 4e-3, status.read(), by_mass.read(), {}),
            20);

  const auto o = rounded<T>(wanted.out), d_o = random_values<T>(o.size(), 9);
  const device_array<T> modified(o), d_out(d_o);
  const device_array<float> modified_lse(rounded<float>(wanted.lse));
  const device_array<double> per_head(4);
  zt::gamma_gradient(m, modified.view({1, 4, 9, 50}),
                     zt::tensor_view<const T, 4, zt::device_memory>(d_out.view({1, 4, 9, 50})),
                     modified_lse.view({1, 4, 9}), q_view, k_view, v_view, sink.sink, zt::causal{},
                     per_head.view({1, 4}));
  const auto gradient = per_head.read(), expected = expected_gradient(p, wanted, o, d_o, in.v);
  for (std::size_t h = 0; h < 4; ++h)
    EXPECT_NEAR(gradient[h], expected[h], 2e-5 * std::max(1.0, std::abs(expected[h])));

  // Any numbers can stand for weights: the mean of column 0 over the rows that see more than it.
  zt::sink_mass(m, q_view, per_head.view({1, 4}), sink.sink, zt::identity{});
  const auto means = per_head.read();
  for (std::size_t h = 0; h < 4; ++h) {
    double sum = 0;
    for (std::size_t i = 0; i < 9; ++i) sum += double(float(in.q[(h * 9 + i) * 40]));
    EXPECT_NEAR(means[h], sum / 9, 1e-12);
  }
}

// q.k of the augmented rows says what the modified logit is; a product with the augmented values,
// what the initial token's weight is.
TEST(sanitized, keys) {
  using T = zt::float16;
  const problem p = small_output();
  const machine m;
  const inputs<T> in(p);
  const device_sink sink(m, p);
  const device_array<T> q(in.q), k(in.k), v(in.v), q_out(4 * 9 * 42), k_out(2 * 9 * 42),
      v_out(2 * 9 * 51);
  const auto k_view = k.view({1, 2, 9, 40});
  constexpr double scale = 0.2;
  zt::augment_query(m, q.view({1, 4, 9, 40}), q_out.view({1, 4, 9, 42}), zt::causal{} | sink.sink,
                    9, scale);
  zt::augment_key(m, k_view, k_out.view({1, 2, 9, 42}), sink.sink);
  zt::augment_value(m, v.view({1, 2, 9, 50}), v_out.view({1, 2, 9, 51}), sink.sink);
  const auto queries = q_out.read(), keys = k_out.read(), values = v_out.read();
  for (std::size_t h = 0; h < 4; ++h)
    for (std::size_t i = 0; i < 9; ++i)
      for (std::size_t j = 0; j < 9; ++j) {
        double added = 0;
        for (std::size_t d = 0; d < 42; ++d)
          added += double(float(queries[(h * 9 + i) * 42 + d])) *
                   double(float(keys[(h / 2 * 9 + j) * 42 + d])) * scale;
        for (std::size_t d = 0; d < 40; ++d)
          added -= double(float(in.q[(h * 9 + i) * 40 + d])) *
                   double(float(in.k[(h / 2 * 9 + j) * 40 + d])) * scale;
        if (j == 0 && i > 0 && p.gamma[h] == 0)  // row 0 sees nothing else: gamma = 0 is left out
          EXPECT_LT(added, -1e3);
        else if (j == 0 && p.gamma[h] > 0)
          EXPECT_NEAR(added, std::log(p.gamma[h]), 1e-5);
        else
          EXPECT_NEAR(added, 0.0, 1e-12);
      }
  for (std::size_t r = 0; r < 2 * 9; ++r)
    for (std::size_t d = 0; d < 51; ++d)
      EXPECT_EQ(float(values[r * 51 + d]),
                d < 50 ? float(in.v[r * 50 + d]) : (r % 9 == 0 ? 1.0f : 0.0f));

  const storage factors(zt::scale_keys_bytes(1, 2));
  zt::scale_keys(m, k_view, zt::key_scale{1.5f}, 4, factors.flat());
  const auto scaled = k.read();
  for (std::size_t i = 0; i < scaled.size(); ++i) {
    const float factor = i / 40 % 9 == 0 ? 1.5f : 1.0f;
    EXPECT_EQ(float(scaled[i]), float(T(float(in.k[i]) * factor)));
  }
}

}  // namespace
}  // namespace zerotune_test
