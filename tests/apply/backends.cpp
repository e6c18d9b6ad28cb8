// SPDX-License-Identifier: Apache-2.0
// Which back ends there are, which one runs, and that a modifier written for scalars is enough.
#include "support/backends.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <type_traits>

#include "support/scene.hpp"
#include "support/tolerance.hpp"
#include "zerotune/apply/attention.hpp"
#include "zerotune/apply/logits.hpp"
#include "zerotune/apply/weights.hpp"

namespace {

using test::index_t;
using test::scene;
using zerotune::form;

template <class Backend, form Form, class T>
constexpr bool has = zerotune::impl::has_kernel<Backend, Form, T>;

template <class Backend, class T>
constexpr bool has_all_but_attention = has<Backend, form::weights, T>&&
    has<Backend, form::logits, T>&& has<Backend, form::mask, T>&& has<Backend, form::keys, T>&&
        has<Backend, form::output, T>&& has<Backend, form::gradient, T>;

TEST(backends, scalar_has_every_form_and_type) {
  using zerotune::backend::scalar;
  static_assert(has_all_but_attention<scalar, float> && has<scalar, form::attention, float>);
  static_assert(has_all_but_attention<scalar, double> && has<scalar, form::attention, double>);
  static_assert(has_all_but_attention<scalar, zerotune::float16> &&
                has<scalar, form::attention, zerotune::float16>);
  static_assert(has_all_but_attention<scalar, zerotune::bfloat16> &&
                has<scalar, form::attention, zerotune::bfloat16>);
  SUCCEED();
}

TEST(backends, simd_has_every_form_and_type) {
#if ZEROTUNE_TEST_SIMD
  using simd = zerotune::backend::simd<>;
  static_assert(has_all_but_attention<simd, float> && has<simd, form::attention, float>);
  static_assert(has_all_but_attention<simd, double> && has<simd, form::attention, double>);
  static_assert(has_all_but_attention<simd, zerotune::float16> &&
                has<simd, form::attention, zerotune::float16>);
  static_assert(has_all_but_attention<simd, zerotune::bfloat16> &&
                has<simd, form::attention, zerotune::bfloat16>);
#else
  GTEST_SKIP() << "the simd back end, or xsimd, is not there";
#endif
}

TEST(backends, eigen_has_every_form_but_attention_for_float_and_double) {
#if ZEROTUNE_TEST_EIGEN
  using zerotune::backend::eigen;
  static_assert(has_all_but_attention<eigen, float> && has_all_but_attention<eigen, double>);
  static_assert(!has<eigen, form::attention, float> && !has<eigen, form::attention, double>);
  static_assert(!has<eigen, form::weights, zerotune::float16>);
#else
  GTEST_SKIP() << "the eigen back end, or Eigen, is not there";
#endif
}

std::atomic<int> scalar_calls{0}, vector_calls{0};

/// Counts whom it is called by; otherwise the sink with gamma 3.
struct counting {
  template <class Batch>
  Batch log_bias(zerotune::row r, Batch kv_pos) const {
    ++(std::is_arithmetic_v<Batch> ? scalar_calls : vector_calls);
    return zerotune::initial_token{3.0f}.log_bias(r, kv_pos);
  }
  zerotune::tile_effect effect(int, zerotune::range, zerotune::range) const {
    return zerotune::tile_effect::apply;
  }
};
/// The same, for scalars only, as somebody writes who has never heard of vectors.
struct scalar_only {
  float log_bias(zerotune::row r, float kv_pos) const {
    return zerotune::initial_token{3.0f}.log_bias(r, kv_pos);
  }
  double log_bias(zerotune::row r, double kv_pos) const {
    return zerotune::initial_token{3.0f}.log_bias(r, kv_pos);
  }
  zerotune::tile_effect effect(int, zerotune::range, zerotune::range) const {
    return zerotune::tile_effect::apply;
  }
};

template <class Kernel>
class chosen : public ::testing::Test {
 public:
  using acc = zerotune::accumulator_t<typename Kernel::type>;
  scene s{.num_heads = 2, .num_kv_heads = 1, .q_len = 3, .kv_len = 257};
  template <class Modifier>
  std::vector<double> attend(const Modifier& m) {
    s.gammas = {3.0f, 3.0f};
    s.causal = false;
    s.complete();
    test::inputs<typename Kernel::type> in(s, 3);
    test::tensor<typename Kernel::type> out({1, 2, 3, 8});
    zerotune::attention(typename Kernel::backend{}, in.q.const_view(), in.k.const_view(),
                        in.v.const_view(), out.view(), m);
    EXPECT_TRUE(test::close<typename Kernel::type>(
        out.dense(), oracle::attend(in.problem(s)).out,
        test::naive_attention<typename Kernel::type>(in.problem(s)).out));
    return out.dense();
  }
};
TYPED_TEST_SUITE(chosen, test::attention_kernels, test::kernel_names);

TYPED_TEST(chosen, backend_is_the_one_that_runs) {
  scalar_calls = vector_calls = 0;
  this->attend(counting{});
  if (std::is_same_v<typename TypeParam::backend, zerotune::backend::scalar>) {
    EXPECT_EQ(vector_calls.load(), 0);
    EXPECT_GE(scalar_calls.load(), 257);
  } else {
    EXPECT_GE(vector_calls.load(), 1) << "the vector back end called the modifier without vectors";
    EXPECT_LT(scalar_calls.load(), 6 * 257);
  }
}

TYPED_TEST(chosen, backend_takes_a_modifier_that_knows_scalars_only) {
  this->attend(scalar_only{});
  this->s.softcap = 50;
  this->attend(zerotune::softcap{50.0f} | zerotune::identity{} | scalar_only{});
}

TYPED_TEST(chosen, backend_takes_a_scalar_modifier_in_the_other_forms) {
  using T = typename TypeParam::type;
  test::tensor<T> custom({1, 1, 2, 67}), built_in({1, 1, 2, 67});
  const typename TypeParam::backend tag{};
  zerotune::bias_logits(tag, custom.randomise(4).view(), scalar_only{});
  zerotune::bias_logits(tag, built_in.randomise(4).view(), zerotune::initial_token{3.0f});
  EXPECT_TRUE(test::same_bits(custom.elements(), built_in.elements()));
  zerotune::rescale_weights(tag, custom.randomise(5, 0, 0.1).view(), scalar_only{});
  zerotune::rescale_weights(tag, built_in.randomise(5, 0, 0.1).view(),
                            zerotune::initial_token{3.0f});
  const std::vector<double> expected = built_in.dense(), actual = custom.dense();
  EXPECT_TRUE(test::close<T>(actual, expected, expected));
}

}  // namespace
