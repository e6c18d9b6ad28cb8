// SPDX-License-Identifier: Apache-2.0
// The key forms: augmented queries and keys, the value indicator, scaled keys.
#include "zerotune/apply/keys.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "support/backends.hpp"
#include "support/errors.hpp"
#include "support/rows.hpp"
#include "support/tolerance.hpp"

namespace {

using test::index_t;
using test::layout;
using test::scene;

template <class T>
class keys_of : public ::testing::Test {
 public:
  static constexpr index_t extra = zerotune::augmented_columns<T>;

  /// Augments, attends with the oracle as a host without any modifier would, compares.
  static void expect_right(const scene& s, layout order, double spread = 1.5) {
    test::inputs<T> in(s, 51, order, spread);
    test::tensor<T> q({s.batch, s.num_heads, s.q_len, s.head_dim + extra}, order);
    test::tensor<T> k({s.batch, s.num_kv_heads, s.kv_len, s.head_dim + extra}, order);
    q.fill(77), k.fill(77);
    zerotune::augment_query(in.q.const_view(), q.view(), s.usual(), s.kv_len, s.scale,
                            s.options<zerotune::sequence_options>());
    zerotune::augment_key(in.k.const_view(), k.view(), s.sink());
    EXPECT_TRUE(q.gaps_intact() && k.gaps_intact());
    for (const double x : q.dense()) ASSERT_TRUE(std::isfinite(x)) << "inf * 0 is NaN";

    scene host = s;
    host.head_dim += extra;
    host.gammas.assign(host.gammas.size(), 1.0f);
    const oracle::result actual = oracle::attend(host.problem(q.dense(), k.dense(), in.v.dense()));
    const oracle::problem problem = in.problem(s);
    const oracle::result expected = oracle::attend(problem);
    EXPECT_TRUE(test::close<T>(actual.out, expected.out, test::naive_attention<T>(problem).out))
        << "kv_len " << s.kv_len << " layout " << static_cast<int>(order);
  }
};
using storage_types = ::testing::Types<float, double, zerotune::float16, zerotune::bfloat16>;
TYPED_TEST_SUITE(keys_of, storage_types);

TYPED_TEST(keys_of, typical_scenes_are_augmented) {
  for (const scene& s : test::typical_scenes()) this->expect_right(s, layout::contiguous);
}
TYPED_TEST(keys_of, any_strides_are_augmented) {
  for (const layout order : test::all_layouts)
    for (const scene& s : test::typical_scenes()) this->expect_right(s, order);
}

// Copies of q and k must be exact, and the coordinate is split where one part cannot hold it.
TYPED_TEST(keys_of, augmentation_copies_exactly_and_splits_the_coordinate) {
  scene s{.num_heads = 2, .num_kv_heads = 1, .q_len = 2, .kv_len = 3, .head_dim = 5};
  s.gammas = {1.7f, 1.0f};
  s.complete();
  test::inputs<TypeParam> in(s, 61);
  test::tensor<TypeParam> q({1, 2, 2, 5 + this->extra}), k({1, 1, 3, 5 + this->extra});
  zerotune::augment_query(in.q.const_view(), q.view(), s.usual(), 3, s.scale);
  zerotune::augment_key(in.k.const_view(), k.view(), s.sink());
  for (index_t h = 0; h < 2; ++h)
    for (index_t i = 0; i < 2; ++i) {
      for (index_t c = 0; c < 5; ++c)
        EXPECT_EQ(test::to_double(q.view()(0, h, i, c)), test::to_double(in.q.view()(0, h, i, c)));
      double coordinate = 0;
      for (index_t c = 0; c < this->extra; ++c)
        coordinate += test::to_double(q.view()(0, h, i, 5 + c));
      const double unit = sizeof(TypeParam) == 8 ? 1e-12 : 1e-5;  // two parts of 8 bits: 2^-17
      EXPECT_NEAR(coordinate, h == 0 ? std::log(static_cast<double>(1.7f)) / s.scale : 0.0,
                  2 * unit);
    }
  for (index_t j = 0; j < 3; ++j)
    for (index_t c = 0; c < this->extra; ++c)
      EXPECT_EQ(test::to_double(k.view()(0, 0, j, 5 + c)), j == 0 ? 1.0 : 0.0);
}

// log gamma / softmax_scale overflows the type for small scales; an infinite coordinate meets the
// zeros of the other keys and makes NaN, a clamped one is another gamma.
TYPED_TEST(keys_of, coordinates_that_the_type_cannot_hold_are_refused) {
  for (const double scale : {1e-4, 1e-9})
    for (const float gamma : {0.0f, 1e-45f, 1e38f}) {
      test::tensor<TypeParam> q({1, 1, 2, 4}), out({1, 1, 2, 4 + this->extra});
      q.randomise(7);
      const auto before = out.storage();
      const std::string message = test::message_of([&] {
        zerotune::augment_query(q.const_view(), out.view(), zerotune::initial_token{gamma}, 3,
                                scale);
      });
      if (std::is_same_v<TypeParam, zerotune::float16>) {
        EXPECT_TRUE(test::mentions(message, {"augment_query", "softmax_scale"})) << gamma;
        EXPECT_TRUE(test::same_bits(out.storage(), before));
        continue;
      }
      EXPECT_EQ(message, "") << "scale " << scale << " gamma " << gamma;
      double bias = 0;
      for (index_t c = 0; c < this->extra; ++c)
        bias += scale * test::to_double(out.view()(0, 0, 0, 4 + c));
      ASSERT_TRUE(std::isfinite(bias)) << "scale " << scale << " gamma " << gamma;
      if (gamma > 0)
        EXPECT_NEAR(bias, std::log(static_cast<double>(gamma)), 2e-3);
      else
        EXPECT_LT(bias, -1e3);
    }
}

TYPED_TEST(keys_of, value_indicator_yields_the_initial_weight) {
  for (const layout order : test::all_layouts) {
    scene s{.batch = 2, .num_heads = 4, .num_kv_heads = 2, .q_len = 3, .kv_len = 7};
    s.value_dim = 5;
    s.positions = {2, 0};
    s.complete();
    test::inputs<TypeParam> in(s, 71, order);
    test::tensor<TypeParam> v({2, 2, 7, 6}, order);
    v.fill(77);
    zerotune::augment_value(in.v.const_view(), v.view(), s.sink());
    EXPECT_TRUE(v.gaps_intact());
    for (index_t b = 0; b < 2; ++b)
      for (index_t h = 0; h < 2; ++h)
        for (index_t j = 0; j < 7; ++j) {
          for (index_t c = 0; c < 5; ++c)
            EXPECT_EQ(test::to_double(v.view()(b, h, j, c)),
                      test::to_double(in.v.view()(b, h, j, c)));
          EXPECT_EQ(test::to_double(v.view()(b, h, j, 5)), j == s.initial(b) ? 1.0 : 0.0);
        }
  }
}

template <class Kernel>
class scaled_keys_of : public ::testing::Test {};
TYPED_TEST_SUITE(scaled_keys_of, test::form_kernels, test::kernel_names);

TYPED_TEST(scaled_keys_of, only_the_initial_key_is_multiplied) {
  using T = typename TypeParam::type;
  const std::vector<float> factors{1.5f, 1.5f, 1.0f, 1.0f, -0.25f, -0.25f};
  const std::vector<index_t> positions{3, 0};
  for (const layout order : test::all_layouts)
    for (const index_t dim : {1, 8, 17}) {
      test::tensor<T> k({2, 3, 5, dim}, order);
      k.randomise(81);
      const auto before = k.elements();
      zerotune::scale_keys(typename TypeParam::backend{}, k.view(),
                           zerotune::key_scale{.factors = test::list_view(factors),
                                               .positions = test::list_view(positions)},
                           6);
      const auto after = k.elements();
      std::size_t i = 0;
      for (std::size_t b = 0; b < 2; ++b)
        for (std::size_t h = 0; h < 3; ++h)
          for (index_t j = 0; j < 5; ++j)
            for (index_t c = 0; c < dim; ++c, ++i) {
              const double factor = j == positions[b] ? static_cast<double>(factors[2 * h]) : 1.0;
              EXPECT_EQ(test::to_double(after[i]),
                        test::stored<T>(test::to_double(before[i]) * factor));
            }
      EXPECT_TRUE(k.gaps_intact());
    }
}

TYPED_TEST(scaled_keys_of, mixed_groups_are_refused_by_default_and_averaged_on_request) {
  using T = typename TypeParam::type;
  test::tensor<T> k({1, 2, 2, 2});
  k.fill(1);
  const std::vector<float> mixed{1.0f, 1.0f, 1.5f, 2.0f};
  zerotune::key_scale scale{.factors = test::list_view(mixed)};
  const auto before = k.elements();
  const std::string message = test::message_of(
      [&] { zerotune::scale_keys(typename TypeParam::backend{}, k.view(), scale, 4); });
  EXPECT_TRUE(test::mentions(message, {"scale_keys", "factors[3]", "key-value head 1"})) << message;
  EXPECT_TRUE(test::same_bits(k.elements(), before));
  scale.groups = zerotune::mixed_groups::mean;
  zerotune::scale_keys(typename TypeParam::backend{}, k.view(), scale, 4);
  EXPECT_EQ(k.dense(), (std::vector<double>{1, 1, 1, 1, 1.75, 1.75, 1, 1}));
}

}  // namespace
