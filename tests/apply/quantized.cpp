// SPDX-License-Identifier: Apache-2.0
// q8_0 caches: the rounding of a block, and decode against the oracle over the numbers that the
// blocks stand for, and over those that they were made of.
#include "zerotune/apply/quantize.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "apply/decode_run.hpp"
#include "support/errors.hpp"

namespace {

using test::index_t;
using test::scene;
using zerotune::q8_0;

#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
constexpr bool finite_math = true;
#else
constexpr bool finite_math = false;
#endif

q8_0 block_of(const std::vector<float>& x) {
  q8_0 block;
  zerotune::quantize(zerotune::tensor_view<const float, 4>(x.data(), {1, 1, 1, 32}),
                     zerotune::tensor_view<q8_0, 4>(&block, {1, 1, 1, 1}));
  return block;
}

TEST(quantize, rounds_to_the_nearest_multiple_of_the_scale) {
  std::vector<float> x(32);
  for (std::size_t i = 0; i < 32; ++i) x[i] = static_cast<float>(i) - 15.5f;
  x[7] = -254.0f;  // scale 2
  const q8_0 block = block_of(x);
  EXPECT_EQ(static_cast<float>(block.scale), 2.0f);
  EXPECT_EQ(block.values[7], -127);
  EXPECT_EQ(block.values[31], 8);   // 15.5 / 2 = 7.75
  EXPECT_EQ(block.values[15], 0);   // -0.5 / 2
  EXPECT_EQ(block.values[14], -1);  // -1.5 / 2
  EXPECT_EQ(block.values[17], 1);   // 1.5 / 2
}

TEST(quantize, of_zeros_is_zero) {
  const q8_0 block = block_of(std::vector<float>(32, 0.0f));
  EXPECT_EQ(static_cast<float>(block.scale), 0.0f);
  for (const std::int8_t value : block.values) EXPECT_EQ(value, 0);
}

TEST(quantize, keeps_each_number_within_its_step) {
  test::random_numbers numbers(5);
  for (const double size : {1e-3, 1.0, 1000.0}) {
    std::vector<float> x(32);
    float greatest = 0;
    for (float& value : x) {
      value = static_cast<float>(numbers.uniform(-size, size));
      greatest = std::max(greatest, std::abs(value));
    }
    const q8_0 block = block_of(x);
    for (std::size_t i = 0; i < 32; ++i) {
      const double stored = static_cast<double>(static_cast<float>(block.scale)) * block.values[i];
      // Half a step; the greatest also the rounding of the scale to float16 (2^-11 of it, or half
      // of the least subnormal), 127 times.
      const double scale = static_cast<double>(greatest) / 127;
      EXPECT_NEAR(stored, static_cast<double>(x[i]),
                  0.501 * scale + 127 * std::max(scale * 0x1p-11, 0x1p-25))
          << size << " " << i;
    }
  }
}

TEST(quantize, of_a_number_that_is_none_makes_the_block_none) {
  if (finite_math) GTEST_SKIP() << "finite inputs only";
  for (const float bad : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
    std::vector<float> x(32, 1.0f);
    x[3] = bad;
    EXPECT_TRUE(std::isnan(static_cast<float>(block_of(x).scale)));
  }
}

TEST(quantize_refuses, what_does_not_fit) {
  std::vector<float> x(128);
  std::vector<q8_0> y(4);
  const auto message = [&](index_t dim, index_t rows, index_t blocks) {
    return test::message_of([&] {
      zerotune::quantize(zerotune::tensor_view<const float, 4>(x.data(), {1, 1, 2, dim}),
                         zerotune::tensor_view<q8_0, 4>(y.data(), {1, 1, rows, blocks}));
    });
  };
  EXPECT_EQ(message(64, 2, 2), "");
  EXPECT_TRUE(test::mentions(message(48, 2, 1), {"quantize: from dim 3 (dim)", "multiple of 32"}));
  EXPECT_TRUE(test::mentions(message(64, 1, 2), {"to dim 2 (length)", "expected 2", "got 1"}));
  EXPECT_TRUE(test::mentions(message(64, 2, 1), {"to dim 3 (dim / 32)", "expected 2", "got 1"}));
}

/// A scene whose keys and values are in q8_0, with the numbers that the blocks stand for.
struct quantized {
  scene s;
  test::inputs<float> in;
  std::vector<q8_0> k, v;
  std::vector<double> k_stored, v_stored;

  explicit quantized(const scene& of) : s(of), in(s, 41) {
    pack(in.k, s.head_dim, &k, &k_stored);
    pack(in.v, s.value_dim, &v, &v_stored);
  }
  zerotune::tensor_view<const q8_0, 4> view(const std::vector<q8_0>& x, index_t dim) const {
    return {x.data(), {s.batch, s.num_kv_heads, s.kv_len, dim / q8_0::size}};
  }
  template <class Backend>
  test::decoded<float> run() {
    test::decoded<float> got(s);
    test::decode_into<Backend, float>(got, s, in.q.const_view(), view(k, s.head_dim),
                                      view(v, s.value_dim), s.usual());
    return got;
  }

 private:
  void pack(test::tensor<float>& from, index_t dim, std::vector<q8_0>* to,
            std::vector<double>* stored) const {
    to->resize(static_cast<std::size_t>(from.size() / q8_0::size));
    zerotune::quantize(from.const_view(),
                       zerotune::tensor_view<q8_0, 4>(
                           to->data(), {s.batch, s.num_kv_heads, s.kv_len, dim / q8_0::size}));
    for (const q8_0& block : *to)
      for (const std::int8_t value : block.values)
        stored->push_back(static_cast<double>(static_cast<float>(block.scale)) * value);
  }
};

template <class Kernel>
class quantized_cache : public ::testing::Test {};
using quantized_kernels =
    typename test::concatenate<::testing::Types<test::kernel<zerotune::backend::scalar, float>>,
#if ZEROTUNE_TEST_SIMD
                               ::testing::Types<test::kernel<zerotune::backend::simd<>, float>>,
#endif
                               ::testing::Types<>>::type;
TYPED_TEST_SUITE(quantized_cache, quantized_kernels, test::kernel_names);

TYPED_TEST(quantized_cache, is_exact_over_what_the_blocks_stand_for) {
  for (const index_t dim : {32, 64, 96, 128, 256})
    for (const index_t length : {1, 17, 64, 65, 130, 1100}) {
      scene s{.num_heads = 5, .num_kv_heads = 1, .q_len = 2, .kv_len = length, .head_dim = dim};
      s.value_dim = dim == 96 ? 32 : dim;
      s.gammas = {2.0f, 0.0f, 1.0f, 0.5f, 3.0f};
      quantized q(s.complete());
      test::expect_close(s, q.template run<typename TypeParam::backend>(),
                         s.problem(q.in.q.dense(), q.k_stored, q.v_stored));
    }
}

// design.md, section 6: 5e-4 for quantised keys and values.
TYPED_TEST(quantized_cache, keeps_the_bound_of_quantised_caches) {
  scene s{.batch = 2, .num_heads = 8, .num_kv_heads = 2, .q_len = 1, .kv_len = 700};
  s.head_dim = s.value_dim = 64;
  s.gammas = {2.0f, 0.0f, 1.0f, 0.5f, 3.0f, 1.0f, 1.0f, 10.0f};
  quantized q(s.complete());
  const auto got = q.template run<typename TypeParam::backend>();
  const auto expected = oracle::attend(q.in.problem(s));
  EXPECT_LE(test::normalised_error(got.out.dense(), expected.out), 5e-4);
  EXPECT_LE(test::normalised_error(got.lse.dense(), expected.lse), 5e-4);
}

TYPED_TEST(quantized_cache, is_bitwise_the_same_in_pages) {
  scene s{.num_heads = 4, .num_kv_heads = 2, .q_len = 1, .kv_len = 96, .head_dim = 64};
  s.value_dim = 32;
  quantized q(s.complete());
  const auto expected = q.template run<typename TypeParam::backend>();
  constexpr index_t page_size = 16, pages = 6;
  const std::vector<std::int32_t> table{4, 0, 5, 2, 1, 3};
  const auto paged = [&](const std::vector<q8_0>& from, index_t blocks) {
    std::vector<q8_0> to(from.size());
    for (index_t h = 0; h < 2; ++h)
      for (index_t j = 0; j < s.kv_len; ++j)
        for (index_t n = 0; n < blocks; ++n) {
          const index_t page = table[static_cast<std::size_t>(j / page_size)];
          to[static_cast<std::size_t>(((page * 2 + h) * page_size + j % page_size) * blocks + n)] =
              from[static_cast<std::size_t>((h * s.kv_len + j) * blocks + n)];
        }
    return to;
  };
  const auto k = paged(q.k, 2), v = paged(q.v, 1);
  const zerotune::tensor_view<const std::int32_t, 2> entries(table.data(), {1, pages});
  test::decoded<float> got(s);
  test::decode_into<typename TypeParam::backend, float>(
      got, s, q.in.q.const_view(),
      zerotune::paged_cache<const q8_0>{{k.data(), {pages, 2, page_size, 2}}, entries},
      zerotune::paged_cache<const q8_0>{{v.data(), {pages, 2, page_size, 1}}, entries}, s.usual());
  EXPECT_TRUE(got.same(expected));
}

TYPED_TEST(quantized_cache, a_scale_that_is_no_number_reaches_those_who_see_it) {
  if (finite_math) GTEST_SKIP() << "finite inputs only";
  scene s{.num_heads = 4, .num_kv_heads = 2, .q_len = 1, .kv_len = 70, .head_dim = 32};
  s.value_dim = 32;
  quantized sound(s.complete()), bad(s);
  bad.k[75].scale = zerotune::float16::from_bits(0x7e00);  // of head 1
  const auto expected = sound.template run<typename TypeParam::backend>();
  const auto got = bad.template run<typename TypeParam::backend>();
  for (const index_t h : {0, 1}) EXPECT_TRUE(got.same_head(expected, s, 0, h));
  for (index_t i = 2 * 32; i < 4 * 32; ++i) EXPECT_TRUE(std::isnan(got.out.at(i)));
}

}  // namespace
