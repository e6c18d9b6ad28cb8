// SPDX-License-Identifier: Apache-2.0
// The fragments for others' kernels, each driven by a minimal stand-in of the interface that it is
// written for. fragments.cu compiles the same for the device.
#include <gtest/gtest.h>

#include "fragments.hpp"
#include "oracle.hpp"

namespace zerotune_test {
namespace {

constexpr long length = 12, dim = 8;

problem example() {
  problem p;
  p.q_len = p.kv_len = length;
  p.dim = p.value_dim = dim;
  p.heads = 2;
  p.kv_heads = 1;
  p.gamma = {3.0, 0.0};
  p.initial = {2};
  return p;
}

TEST(fragments, a_kernel_with_variant_hooks) {
  const problem p = example();
  const auto q = random_values<float>(2 * length * dim, 1),
             k = random_values<float>(length * dim, 2), v = random_values<float>(length * dim, 3);
  const result exact = exact_attention(p, q, k, v);
  const std::vector<float> gammas = {3.0f, 0.0f};
  const std::vector<zerotune::index_t> positions = {2};
  const auto sink =
      zerotune::initial_token{zerotune::view_of(gammas)}.at(zerotune::view_of(positions));
  const float scale = static_cast<float>(p.softmax_scale());
  for (const float unit : {1.0f, 1.44269504f}) {
    const variant_parameters parameters{length, length};
    const auto modifier = zerotune::causal{} | sink;
    using variant_type = zerotune::interop::logits_variant<std::remove_const_t<decltype(modifier)>>;
    const variant_type variant{modifier, 1.0f, unit};
    for (long h = 0; h < 2; ++h)
      for (long i = 3; i < length; ++i) {
        float out[dim] = {};
        variant_attention(variant, parameters, &q[size_t((h * length + i) * dim)], k.data(),
                          v.data(), int(dim), scale * unit, unit, unsigned(i), unsigned(h), out);
        for (long d = 0; d < dim; ++d)
          EXPECT_NEAR(out[d], exact.out[size_t((h * length + i) * dim + d)], 1e-5);
      }
  }
}

TEST(fragments, a_kernel_with_an_epilogue_visitor) {
  const std::vector<float> gammas = {3.0f};
  const auto sink = zerotune::initial_token{zerotune::view_of(gammas)};
  const auto modifier = zerotune::causal{} | sink;
  const zerotune::interop::score_visitor<std::remove_const_t<decltype(modifier)>> visitor{
      modifier, 0, 0, 5, 0.5f};
  float tile[4 * 4];
  for (int i = 0; i < 16; ++i) tile[i] = static_cast<float>(i);
  epilogue_tile(visitor, tile, 0, 4);  // rows 0..3 (positions 5..8), columns 0..3
  EXPECT_FLOAT_EQ(tile[0], std::log(3.0f));
  EXPECT_FLOAT_EQ(tile[5], 2.5f);
  epilogue_tile(visitor, tile, 8, 4);  // columns 8..11: only position 8 sees column 8
  EXPECT_EQ(tile[0], -INFINITY);
  EXPECT_TRUE(std::isfinite(tile[12]));
  EXPECT_EQ(visitor.effect(0, 4, 9, 12), zerotune::tile_effect::masked);
  EXPECT_EQ(visitor.effect(0, 4, 1, 5), zerotune::tile_effect::none);
  EXPECT_EQ(visitor.effect(0, 4, 0, 5), zerotune::tile_effect::apply);
}

TEST(fragments, log2_gamma) {
  EXPECT_EQ(zerotune::interop::log2_gamma(1.0f), 0.0f);
  EXPECT_FLOAT_EQ(zerotune::interop::log2_gamma(8.0f), 3.0f);
  EXPECT_EQ(zerotune::interop::log2_gamma(0.0f), -1e30f);
}

}  // namespace
}  // namespace zerotune_test
