// SPDX-License-Identifier: Apache-2.0
// Decode: split keys and their merge, contiguous and paged caches, heads of a group in one tile.
#include "attention_case.hpp"

namespace zerotune_test {
namespace {

using dims64 = zt::head_dims<64>;
using kernel_type = zt::device_attention_plan::kernel_type;

template <class T>
class decode : public ::testing::Test {};
using types = ::testing::Types<float, zt::float16, zt::bfloat16>;
TYPED_TEST_SUITE(decode, types);

problem step(long kv_len, long heads = 4, long kv_heads = 1, long q_len = 1) {
  problem p;
  p.q_len = q_len;
  p.kv_len = kv_len;
  p.heads = heads;
  p.kv_heads = kv_heads;
  p.gamma.assign(size_t(heads), 2.0);
  p.gamma[0] = 0.0;
  return p;
}

template <class T>
attention_run<T> run(const problem& p, const inputs<T>& in, long keys_per_split,
                     long page_size = 0) {
  const device_sink sink(machine{}, p);
  run_options options;
  options.keys_per_split = keys_per_split;
  options.page_size = page_size;
  const auto r = run_attention(p, in.q, in.k, in.v, zt::causal{} | sink.sink, options, dims64{});
  constexpr bool is_float = std::is_same_v<T, float>;
  EXPECT_EQ(r.plan.kernel, is_float ? kernel_type::generic : kernel_type::flash_decode);
  return r;
}

TYPED_TEST(decode, splits_and_tails) {
  for (const long kv_len : {1, 63, 64, 65, 128, 129, 300})
    for (const long keys : {64, 128, 512}) {
      SCOPED_TRACE(std::to_string(kv_len) + " keys, split " + std::to_string(keys));
      const problem p = step(kv_len);
      const inputs<TypeParam> in(p, static_cast<unsigned>(kv_len));
      const auto r = run(p, in, keys);
      EXPECT_EQ(r.plan.splits, (kv_len + keys - 1) / keys);
      expect_close(p, in, r);
    }
}

TYPED_TEST(decode, paged_equals_contiguous) {
  problem p = step(150, 4, 2);
  p.batch = 3;
  p.kv_length = {150, 97, 1};
  const inputs<TypeParam> in(p);
  const auto contiguous = run(p, in, 64);
  expect_close(p, in, contiguous);
  for (const long page_size : {1, 16, 64, 128}) {
    SCOPED_TRACE(page_size);
    const auto paged = run(p, in, 64, page_size);
    EXPECT_EQ(paged.lse, contiguous.lse);
    for (std::size_t i = 0; i < paged.out.size(); ++i)
      ASSERT_EQ(float(paged.out[i]), float(contiguous.out[i]));
  }
}

TYPED_TEST(decode, several_queries_and_groups) {
  for (const long group : {1, 2, 3, 4, 5, 6, 7, 8})
    for (const long q_len : {1L, 2L, 16 / group}) {
      SCOPED_TRACE(std::to_string(group) + " heads a group, " + std::to_string(q_len));
      const problem p = step(100, 2 * group, 2, q_len);
      const inputs<TypeParam> in(p);
      expect_close(p, in, run(p, in, 64));
    }
}

// A split that holds nothing but an excluded token must not count; one that sees nothing neither.
TYPED_TEST(decode, gamma_zero_across_splits) {
  for (const long initial : {0, 63, 64, 127}) {
    SCOPED_TRACE(initial);
    problem p = step(128, 2, 1);
    p.gamma = {0.0, 1e38};
    p.initial = {initial};
    const inputs<TypeParam> in(p);
    expect_close(p, in, run(p, in, 64));
  }
}

TYPED_TEST(decode, nan_survives_the_merge) {
  const problem p = step(200, 1, 1);
  inputs<TypeParam> in(p);
  in.k[70 * 64] = TypeParam(std::numeric_limits<float>::quiet_NaN());
  const auto r = run(p, in, 64);
  EXPECT_TRUE(std::isnan(r.lse[0]));
  for (const TypeParam x : r.out) EXPECT_TRUE(std::isnan(float(x)));
}

// A product of -inf would vanish in the maximum of its split.
TYPED_TEST(decode, an_infinite_product_is_not_hidden) {
  const problem p = step(200, 2, 1);
  inputs<TypeParam> in(p);
  for (TypeParam& x : in.q) x = TypeParam(1.0f);
  in.k[70 * 64] = TypeParam(-std::numeric_limits<float>::infinity());
  const auto r = run(p, in, 64);
  for (const float x : r.lse) EXPECT_TRUE(std::isnan(x));
  for (const TypeParam x : r.out) EXPECT_TRUE(std::isnan(float(x)));
}

TYPED_TEST(decode, an_empty_cache_gives_zeros) {
  problem p = step(130, 2, 1);
  p.batch = 2;
  p.kv_length = {0, 130};
  const inputs<TypeParam> in(p);
  expect_close(p, in, run(p, in, 64));
  EXPECT_EQ(run(p, in, 64).lse[0], -std::numeric_limits<float>::infinity());
}

TYPED_TEST(decode, no_keys_at_all) {
  const problem p = step(0, 2, 1);
  const inputs<TypeParam> in(p);
  expect_close(p, in, run(p, in, 0));
}

// The boundaries of splits are fixed: a sequence's bits do not depend on its neighbours.
TYPED_TEST(decode, batch_composition_changes_no_bit) {
  problem pair = step(200, 4, 2);
  pair.batch = 2;
  pair.kv_length = {90, 200};
  const inputs<TypeParam> both(pair);
  problem single = step(90, 4, 2);
  inputs<TypeParam> alone(single);
  alone.q.assign(both.q.begin(), both.q.begin() + 4 * 64);
  for (long g = 0; g < 2; ++g)
    for (long i = 0; i < 90 * 64; ++i) {
      alone.k[size_t(g * 90 * 64 + i)] = both.k[size_t(g * 200 * 64 + i)];
      alone.v[size_t(g * 90 * 64 + i)] = both.v[size_t(g * 200 * 64 + i)];
    }
  const auto a = run(single, alone, 128), b = run(pair, both, 128);
  EXPECT_EQ(a.plan.splits, 1);
  EXPECT_EQ(b.plan.splits, 2);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(a.lse[i], b.lse[i]);
  for (std::size_t i = 0; i < 4 * 64; ++i) ASSERT_EQ(float(a.out[i]), float(b.out[i]));
}

TYPED_TEST(decode, prefill_may_be_split_and_paged) {
  problem p = step(150, 2, 1, 40);
  const inputs<TypeParam> in(p);
  const device_sink sink(machine{}, p);
  run_options options;
  options.keys_per_split = 64;
  options.page_size = 32;
  const auto r = run_attention(p, in.q, in.k, in.v, zt::causal{} | sink.sink, options, dims64{});
  EXPECT_EQ(r.plan.splits, 3);
  expect_close(p, in, r);
}

}  // namespace
}  // namespace zerotune_test
