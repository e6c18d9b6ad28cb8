// SPDX-License-Identifier: Apache-2.0
// Fused attention against the oracle: lengths, groups, head dimensions, layouts and modifiers.
#include "zerotune/apply/attention.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "support/backends.hpp"
#include "support/scene.hpp"
#include "support/tolerance.hpp"

namespace {

using test::index_t;
using test::layout;
using test::scene;

template <class Kernel>
class attention_of : public ::testing::Test {
 public:
  using backend = typename Kernel::backend;
  using type = typename Kernel::type;
  using acc = zerotune::accumulator_t<type>;

  /// Runs the scene with the modifier on the library and compares with the oracle.
  template <class Modifier>
  static void expect_right(scene& s, const Modifier& modifier, layout order, double spread = 1.5) {
    test::inputs<type> in(s, 17, order, spread);
    test::tensor<type> out({s.batch, s.num_heads, s.q_len, s.value_dim}, order);
    test::tensor<acc, 3> lse({s.batch, s.num_heads, s.q_len}, layout::spread);
    out.fill(77), lse.fill(77);  // every element is to be overwritten
    auto options = s.options<zerotune::attention_options<acc>>();
    options.softmax_scale = static_cast<acc>(s.scale);
    options.lse = lse.view();
    zerotune::attention(backend{}, in.q.const_view(), in.k.const_view(), in.v.const_view(),
                        out.view(), modifier, options);
    const oracle::problem problem = in.problem(s);
    const oracle::result expected = oracle::attend(problem);
    const oracle::result naive = test::naive_attention<type>(problem);
    EXPECT_TRUE(test::close<type>(out.dense(), expected.out, naive.out)) << describe(s, order);
    EXPECT_TRUE(test::close<acc>(lse.dense(), expected.lse, naive.lse)) << describe(s, order);
    EXPECT_TRUE(out.gaps_intact() && lse.gaps_intact()) << "wrote between its elements";
  }
  static void expect_right(scene& s, layout order = layout::contiguous) {
    s.complete();
    expect_right(s, s.usual(), order);
  }
  static std::string describe(const scene& s, layout order) {
    return "q_len " + std::to_string(s.q_len) + " kv_len " + std::to_string(s.kv_len) + " heads " +
           std::to_string(s.num_heads) + "/" + std::to_string(s.num_kv_heads) + " head_dim " +
           std::to_string(s.head_dim) + " layout " + std::to_string(static_cast<int>(order));
  }
};
TYPED_TEST_SUITE(attention_of, test::attention_kernels, test::kernel_names);

// Around the widths of vectors (4, 8, 16, 32 elements) and of blocks of keys: skipped tails.
TYPED_TEST(attention_of, is_right_at_every_length) {
  for (const index_t length :
       {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 67, 127, 128, 129, 257})
    for (const index_t q_len : {index_t{1}, std::min<index_t>(length, 9)}) {
      scene s{.num_heads = 2, .num_kv_heads = 1, .q_len = q_len, .kv_len = length, .head_dim = 16};
      s.value_dim = 16;
      s.gammas = {3.0f, 0.25f};
      this->expect_right(s);
    }
}

TYPED_TEST(attention_of, is_right_at_every_head_dimension) {
  for (const index_t dim : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 80, 96, 128, 131}) {
    scene s{.num_heads = 2, .num_kv_heads = 2, .q_len = 3, .kv_len = 11, .head_dim = dim};
    s.value_dim = dim;
    s.gammas = {4.0f, 0.0f};
    this->expect_right(s);
    s.value_dim = dim == 5 ? 64 : 5;  // values may have another width than keys
    this->expect_right(s);
  }
}

// A sum of weights that takes them one by one would round all the small ones in one direction.
TYPED_TEST(attention_of, small_weights_beside_a_great_one_add_up) {
  for (const index_t q_len : {1, 70}) {
    scene s{.q_len = q_len, .kv_len = 2500, .head_dim = 16};
    s.value_dim = 16;
    s.gammas = {1e6f};
    s.complete();
    this->expect_right(s, s.usual(), layout::contiguous, 0.01);
  }
}

// Query head h reads key-value head h / group_size, not h % num_kv_heads.
TYPED_TEST(attention_of, is_right_with_every_group_size) {
  for (const index_t group : {1, 2, 3, 8})
    for (const index_t kv_heads : {1, 2, 3}) {
      scene s{.batch = 2, .num_heads = group * kv_heads, .num_kv_heads = kv_heads, .q_len = 4};
      s.kv_len = 6;
      for (index_t h = 0; h < s.num_heads; ++h) s.gammas.push_back(0.5f * static_cast<float>(h));
      this->expect_right(s);
    }
}

TYPED_TEST(attention_of, is_right_with_any_strides) {
  for (const layout order : test::all_layouts)
    for (const index_t dim : {1, 8, 19}) {
      scene s{.batch = 2, .num_heads = 4, .num_kv_heads = 2, .q_len = 5, .kv_len = 21};
      s.head_dim = dim, s.value_dim = dim + 2;
      s.gammas = {2.0f, 0.0f, 1.0f, 0.125f};
      this->expect_right(s, order);
    }
}

TYPED_TEST(attention_of, takes_inputs_of_stride_zero) {
  using T = typename TypeParam::type;
  using real = typename TestFixture::acc;
  scene s{.batch = 3, .num_heads = 2, .num_kv_heads = 2, .q_len = 4, .kv_len = 9};
  s.gammas = {5.0f, 0.5f};
  s.complete();
  test::inputs<T> in(s, 5);
  test::tensor<T> out({3, 2, 4, 8});
  // One sequence for all of the batch, one key-value head for all heads, one key for all positions.
  const auto q = in.q.const_view(), k = in.k.const_view(), v = in.v.const_view();
  const zerotune::tensor_view<const T, 4> shared_q(q.data(), {3, 2, 4, 8},
                                                   {0, q.stride(1), q.stride(2), 1});
  const zerotune::tensor_view<const T, 4> shared_k(k.data(), {3, 2, 9, 8}, {0, 0, 0, 1});
  const zerotune::tensor_view<const T, 4> shared_v(v.data(), {3, 2, 9, 8}, {0, 0, v.stride(2), 0});
  zerotune::attention(typename TypeParam::backend{}, shared_q, shared_k, shared_v, out.view(),
                      s.usual(), zerotune::attention_options<real>{});
  std::vector<double> dense_q, dense_k, dense_v;
  for (index_t b = 0; b < 3; ++b)
    for (index_t h = 0; h < 2; ++h) {
      for (index_t i = 0; i < 4; ++i)
        for (index_t c = 0; c < 8; ++c) dense_q.push_back(test::to_double(shared_q(b, h, i, c)));
      for (index_t j = 0; j < 9; ++j)
        for (index_t c = 0; c < 8; ++c) {
          dense_k.push_back(test::to_double(shared_k(b, h, j, c)));
          dense_v.push_back(test::to_double(shared_v(b, h, j, c)));
        }
    }
  const oracle::problem problem = s.problem(dense_q, dense_k, dense_v);
  EXPECT_TRUE(test::close<T>(out.dense(), oracle::attend(problem).out,
                             test::naive_attention<T>(problem).out));
}

TYPED_TEST(attention_of, is_right_with_every_bias_at_once) {
  for (const layout order : {layout::contiguous, layout::swapped}) {
    scene s{.batch = 2, .num_heads = 4, .num_kv_heads = 2, .q_len = 13, .kv_len = 37};
    s.gammas = {2.0f, 0.0f, 1.0f, 0.125f};
    s.slopes = {0.5f, 0.25f, 0.0f, 0.0625f};
    s.span = {5, 21}, s.span_gamma = 0.3f;
    s.window = 19;
    s.positions = {3, 0};
    s.complete();
    this->expect_right(s, s.biases(), order);
  }
}

TYPED_TEST(attention_of, is_right_with_a_softcap_before_the_biases) {
  scene s{.batch = 1, .num_heads = 2, .num_kv_heads = 1, .q_len = 9, .kv_len = 29};
  s.gammas = {8.0f, 0.0f};
  s.slopes = {0.5f, 0.25f};
  s.softcap = 2.0;
  s.complete();
  this->expect_right(s, s.everything(), layout::contiguous, 4.0);
}

TYPED_TEST(attention_of, is_right_for_sequences_of_different_lengths_and_starts) {
  scene s{.batch = 4, .num_heads = 2, .num_kv_heads = 1, .q_len = 5, .kv_len = 23};
  s.kv_lengths = {23, 7, 0, 12};
  s.q_starts = {18, 2, 0, 3};  // the last one a chunk in the middle of its keys
  s.positions = {0, 4, 1, 2};
  s.gammas = {3.0f, 0.0f};
  this->expect_right(s);
  s.q_starts.clear();  // the last positions: before 0 where the sequence is shorter
  this->expect_right(s);
}

TYPED_TEST(attention_of, is_right_without_causality) {
  scene s{.batch = 2, .num_heads = 2, .num_kv_heads = 1, .q_len = 7, .kv_len = 18};
  s.causal = false;
  s.gammas = {3.0f, 0.0f};
  s.complete();
  this->expect_right(s, s.sink(), layout::contiguous);
}

// A sharp and a flat softmax: running maxima that move, and logits that exp cannot hold.
TYPED_TEST(attention_of, is_right_for_large_logits) {
  for (const double spread : {1e-3, 8.0, 40.0}) {
    scene s{.num_heads = 2, .num_kv_heads = 2, .q_len = 8, .kv_len = 70, .head_dim = 16};
    s.value_dim = 16;
    s.gammas = {1e6f, 1e-6f};
    s.complete();
    this->expect_right(s, s.usual(), layout::contiguous, spread);
  }
}

TYPED_TEST(attention_of, uses_one_over_the_root_of_head_dim_as_its_default_scale) {
  using T = typename TypeParam::type;
  scene s{.q_len = 3, .kv_len = 5, .head_dim = 64, .value_dim = 4};
  s.complete();
  test::inputs<T> in(s, 8);
  test::tensor<T> implicit({1, 1, 3, 4}), explicit_one({1, 1, 3, 4});
  zerotune::attention_options<typename TestFixture::acc> options;
  zerotune::attention(typename TypeParam::backend{}, in.q.const_view(), in.k.const_view(),
                      in.v.const_view(), implicit.view(), s.usual(), options);
  options.softmax_scale = 0.125;
  zerotune::attention(typename TypeParam::backend{}, in.q.const_view(), in.k.const_view(),
                      in.v.const_view(), explicit_one.view(), s.usual(), options);
  EXPECT_TRUE(test::same_bits(implicit.elements(), explicit_one.elements()));
}

}  // namespace
