// SPDX-License-Identifier: Apache-2.0
// Attention without tensor cores: float, any head dimension, any strides, older architectures.
#include "attention_case.hpp"

namespace zerotune_test {
namespace {

using kernel_type = zt::device_attention_plan::kernel_type;

template <class T>
class generic : public ::testing::Test {};
using types = ::testing::Types<float, zt::float16, zt::bfloat16>;
TYPED_TEST_SUITE(generic, types);

template <class T, class Before = zt::causal>
void check(const problem& p, unsigned seed = 1, const Before& before = {}) {
  const inputs<T> in(p, seed);
  const device_sink sink(machine{}, p);
  run_options options;
  options.on.tensor_cores = false;
  const auto run =
      run_attention(p, in.q, in.k, in.v, before | sink.sink, options, zt::head_dims<>{});
  EXPECT_EQ(run.plan.kernel, kernel_type::generic);
  expect_close(p, in, run);
}

TYPED_TEST(generic, lengths_and_dims) {
  for (const long length : {1, 2, 31, 32, 33, 65})
    for (const long dim : {1, 7, 64, 80, 96, 128, 129, 256}) {
      if (dim > 80 && length != 33) continue;
      SCOPED_TRACE(std::to_string(length) + " keys of " + std::to_string(dim));
      problem p;
      p.q_len = p.kv_len = length;
      p.dim = dim;
      p.value_dim = dim == 7 ? 150 : dim;
      p.gamma = {3.0};
      check<TypeParam>(p, static_cast<unsigned>(length + dim));
    }
}

TYPED_TEST(generic, gammas_groups_and_padding) {
  problem p;
  p.batch = 3;
  p.heads = 4;
  p.kv_heads = 2;
  p.q_len = 20;
  p.kv_len = 70;
  p.gamma = {0.0, 1e38, 1.0, 1e-40};
  p.initial = {0, 30, 69};
  p.kv_length = {70, 64, 70};
  check<TypeParam>(p);
}

TYPED_TEST(generic, row_zero_is_left_alone_at_gamma_zero) {
  problem p;
  p.q_len = p.kv_len = 5;
  p.gamma = {0.0};
  check<TypeParam>(p);
}

TYPED_TEST(generic, an_infinite_product_is_not_hidden) {
  problem p;
  p.q_len = p.kv_len = 6;
  inputs<TypeParam> in(p);
  for (TypeParam& x : in.q) x = TypeParam(1.0f);
  in.k[3 * 64] = TypeParam(-std::numeric_limits<float>::infinity());
  run_options options;
  options.on.tensor_cores = false;
  const auto run = run_attention(p, in.q, in.k, in.v, zt::causal{}, options, zt::head_dims<>{});
  for (long i = 0; i < 6; ++i) {
    EXPECT_EQ(std::isnan(run.lse[size_t(i)]), i >= 3) << i;
    EXPECT_EQ(std::isnan(float(run.out[size_t(i * 64)])), i >= 3) << i;
  }
}

TYPED_TEST(generic, nan_reaches_only_rows_that_see_it) {
  problem p;
  p.q_len = p.kv_len = 70;
  inputs<TypeParam> in(p);
  in.k[40 * 64 + 5] = TypeParam(std::numeric_limits<float>::quiet_NaN());
  in.q[10 * 64 + 7] = TypeParam(std::numeric_limits<float>::infinity());
  run_options options;
  options.on.tensor_cores = false;
  const auto run = run_attention(p, in.q, in.k, in.v, zt::causal{}, options, zt::head_dims<>{});
  for (long i = 0; i < 70; ++i) {
    const bool broken = i >= 40 || i == 10;
    EXPECT_EQ(std::isnan(run.lse[size_t(i)]), broken) << i;
    for (long d = 0; d < 64; ++d)
      ASSERT_EQ(std::isnan(float(run.out[size_t(i * 64 + d)])), broken) << i;
  }
}

// Hides one key by its bias alone; perhaps says that no other key changes.
template <bool Single>
struct hide {
  long key;
  template <class Batch>
  ZEROTUNE_HOST_DEVICE Batch log_bias(zt::row, Batch kv_pos) const {
    using zt::select;
    return select(kv_pos == Batch(static_cast<float>(key)),
                  Batch(-std::numeric_limits<float>::infinity()), Batch(0.0f));
  }
  ZEROTUNE_HOST_DEVICE zt::tile_effect effect(int, zt::range, zt::range kv) const {
    return kv.contains(key) ? zt::tile_effect::apply : zt::tile_effect::none;
  }
  ZEROTUNE_HOST_DEVICE zt::range support(zt::row) const requires Single { return {key, key + 1}; }
};

template <bool Single>
void check_hidden() {
  problem p;
  p.q_len = p.kv_len = 40;
  inputs<float> in(p);
  run_options options;
  options.on.tensor_cores = false;
  const auto run = [&] {
    return run_attention(p, in.q, in.k, in.v, zt::causal{} | hide<Single>{7}, options,
                         zt::head_dims<>{});
  };
  const auto expected = run();
  in.k[7 * 64 + 5] = std::numeric_limits<float>::quiet_NaN();
  const auto got = run();
  EXPECT_EQ(got.lse, expected.lse);
  EXPECT_EQ(got.out, expected.out);
  for (const float lse : got.lse) ASSERT_FALSE(std::isnan(lse));
}
TEST(generic_modifiers, a_key_that_a_bias_hides_is_not_looked_at) {
  check_hidden<false>();
  check_hidden<true>();
}

TEST(generic_modifiers, softcap_and_window) {
  for (const long window : {1, 16, 50, 200}) {
    SCOPED_TRACE(window);
    problem p;
    p.heads = 2;
    p.q_len = p.kv_len = 70;
    p.gamma = {6.0, 0.0};
    p.cap = 3.0;
    p.window = window;
    check<float>(p, 1, zt::softcap{3.0f} | zt::causal{} | zt::sliding_window{window});
  }
}

// Any strides, an address that is aligned to the element only, another output type.
TEST(generic_strides, transposed_and_unaligned) {
  problem p;
  p.q_len = p.kv_len = 20;
  p.heads = 2;
  p.kv_heads = 1;
  p.dim = p.value_dim = 8;
  p.gamma = {2.0, 0.5};
  const inputs<float> in(p);
  const machine m;
  const device_sink sink(m, p);
  std::vector<float> q(in.q.size() + 1), k(in.k.size() + 1), v(in.v.size());
  for (long h = 0; h < 2; ++h)
    for (long i = 0; i < 20; ++i)
      for (long d = 0; d < 8; ++d)  // [batch, row, head, dim]
        q[size_t((i * 2 + h) * 8 + d + 1)] = in.q[size_t((h * 20 + i) * 8 + d)];
  for (long i = 0; i < 20; ++i)
    for (long d = 0; d < 8; ++d) {
      k[size_t(d * 20 + 19 - i + 1)] = in.k[size_t(i * 8 + d)];  // transposed and reversed
      v[size_t(d * 20 + i)] = in.v[size_t(i * 8 + d)];
    }
  const device_array<float> dq(q), dk(k), dv(v);
  const device_array<zt::float16> out(size_t(2 * 20 * 8));
  using device = zt::device_memory;
  const auto plan = zt::attention(
      m, zt::tensor_view<float, 4, device>(dq.data() + 1, {1, 2, 20, 8}, {320, 8, 16, 1}),
      zt::tensor_view<float, 4, device>(dk.data() + 20, {1, 1, 20, 8}, {160, 160, -1, 20}),
      zt::tensor_view<float, 4, device>(dv.data(), {1, 1, 20, 8}, {160, 160, 1, 20}),
      out.view({1, 2, 20, 8}), zt::causal{} | sink.sink, {}, zt::head_dims<>{});
  EXPECT_EQ(plan.kernel, kernel_type::generic);
  const auto e = measure(out.read(), exact_attention(p, in.q, in.k, in.v).out);
  EXPECT_FALSE(e.broken);
  EXPECT_LT(e.greatest, 2e-3);  // of the float16 output alone
}

}  // namespace
}  // namespace zerotune_test
