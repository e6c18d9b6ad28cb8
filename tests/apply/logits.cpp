// SPDX-License-Identifier: Apache-2.0
// The logits form and the mask form: each element against its definition, and the softmax of it.
#include "zerotune/apply/logits.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "support/backends.hpp"
#include "support/rows.hpp"
#include "support/tolerance.hpp"
#include "zerotune/apply/mask.hpp"

namespace {

using test::index_t;
using test::layout;
using test::scene;
using test::scene_row;

template <class Kernel>
class logits_of : public ::testing::Test {
 public:
  using backend = typename Kernel::backend;
  using type = typename Kernel::type;

  /// What must stand in a tensor that held `before`: each visible logit plus its biases, -inf where
  /// hidden. An excluded key is marked NaN here and held to less.
  static std::vector<double> expected_logits(const scene& s, const std::vector<double>& before) {
    std::vector<double> expected;
    const auto keys = static_cast<std::size_t>(s.kv_len);
    test::for_each_row(s, [&](const scene_row& r) {
      for (std::size_t j = 0; j < keys; ++j) {
        double logit = before[expected.size()];
        if (s.softcap > 0) logit = s.softcap * std::tanh(logit / s.softcap);
        logit += r.biases[j];
        if (!r.visible[j])
          logit = -oracle::infinity;
        else if (r.factors[j] > 0)
          logit += std::log(r.factors[j]);
        else if (!r.only_excluded)
          logit = std::numeric_limits<double>::quiet_NaN();
        expected.push_back(logit);
      }
    });
    return expected;
  }
  static void compare(const test::tensor<type>& actual, std::vector<double> expected,
                      const scene& s, layout order) {
    std::vector<double> values = actual.dense(), naive;
    for (std::size_t i = 0; i < values.size(); ++i)
      if (std::isnan(expected[i])) {
        EXPECT_TRUE(std::isfinite(values[i])) << "gamma = 0 is no mask: partial results must merge";
        EXPECT_LT(values[i], -5e4) << "excluded exactly: exp is 0";
        values[i] = expected[i] = 0;
      }
    for (const double e : expected) naive.push_back(test::stored<type>(e));
    EXPECT_TRUE(test::close<type>(values, expected, naive))
        << "kv_len " << s.kv_len << " layout " << static_cast<int>(order);
    EXPECT_TRUE(actual.gaps_intact());
  }

  template <class Modifier>
  static void expect_biased(const scene& s, const Modifier& modifier, layout order) {
    test::tensor<type> logits({s.batch, s.num_heads, s.q_len, s.kv_len}, order);
    logits.randomise(31, -6, 6);
    const std::vector<double> expected = expected_logits(s, logits.dense());
    zerotune::bias_logits(backend{}, logits.view(), modifier,
                          s.options<zerotune::sequence_options>());
    compare(logits, expected, s, order);
  }
  template <class Modifier>
  static void expect_masked(const scene& s, const Modifier& modifier, layout order) {
    test::tensor<type> mask({s.batch, s.num_heads, s.q_len, s.kv_len}, order);
    mask.fill(77);  // every element is overwritten
    const std::vector<double> zeros(static_cast<std::size_t>(mask.size()), 0.0);
    const std::vector<double> expected = expected_logits(s, zeros);
    zerotune::fill_mask(backend{}, mask.view(), modifier, s.options<zerotune::sequence_options>());
    compare(mask, expected, s, order);
  }
};
TYPED_TEST_SUITE(logits_of, test::form_kernels, test::kernel_names);

TYPED_TEST(logits_of, typical_scenes_are_biased) {
  for (const scene& s : test::typical_scenes())
    this->expect_biased(s, s.usual(), layout::contiguous);
}
TYPED_TEST(logits_of, any_strides_are_biased) {
  for (const layout order : test::all_layouts)
    for (const scene& s : test::typical_scenes()) this->expect_biased(s, s.usual(), order);
}
TYPED_TEST(logits_of, all_biases_are_summed) {
  const scene s = test::scene_of_all_biases();
  for (const layout order : test::all_layouts) this->expect_biased(s, s.biases(), order);
}
TYPED_TEST(logits_of, a_softcap_comes_before_the_biases) {
  scene s = test::scene_of_all_biases();
  s.softcap = 2.0;
  s.span_gamma = 1.0f;
  s.window = index_t{1} << 40;
  this->expect_biased(s, s.everything(), layout::contiguous);
}

TYPED_TEST(logits_of, typical_scenes_get_a_mask) {
  for (const scene& s : test::typical_scenes())
    this->expect_masked(s, s.usual(), layout::contiguous);
}
TYPED_TEST(logits_of, any_strides_get_a_mask) {
  for (const layout order : test::all_layouts)
    for (const scene& s : test::typical_scenes()) this->expect_masked(s, s.usual(), order);
}
TYPED_TEST(logits_of, all_biases_get_a_mask) {
  const scene s = test::scene_of_all_biases();
  for (const layout order : test::all_layouts) this->expect_masked(s, s.biases(), order);
}

// A host hides keys with -inf or with the lowest finite value: they stay hidden, and lowest + bias
// must not become a NaN or an ordinary number.
TYPED_TEST(logits_of, a_host_has_hidden_stay_hidden) {
  using T = typename TypeParam::type;
  for (const double hidden : {-oracle::infinity, sizeof(T) == 2 ? -65504.0 : -3e38})
    for (const float gamma : {0.0f, 0.5f, 1e38f}) {
      test::tensor<T> logits({1, 1, 2, 6});
      logits.set({hidden, 1, hidden, 2, 3, hidden, 0.5, hidden, 1, hidden, hidden, 2});
      const std::vector<double> before = logits.dense();
      zerotune::bias_logits(typename TypeParam::backend{}, logits.view(),
                            zerotune::initial_token{gamma});
      const std::vector<double> after = logits.dense();
      for (std::size_t j = 1; j < 12; ++j) EXPECT_TRUE(j == 6 || after[j] == before[j]) << j;
      EXPECT_LT(after[0], -5e4);
      EXPECT_FALSE(std::isnan(after[0]) || std::isnan(after[6]));
    }
}

// The rule of section 2 looks at positions and masks, and a host's -inf is a mask.
/// A mask of one's own.
struct hides_key_one {
  template <class Batch>
  Batch log_bias(zerotune::row, Batch kv_pos) const {
    return zerotune::select(kv_pos == Batch(1), Batch(-std::numeric_limits<float>::infinity()),
                            Batch(0.0f));
  }
  zerotune::tile_effect effect(int, zerotune::range, zerotune::range) const {
    return zerotune::tile_effect::apply;
  }
};

// What stands at a key that a bias hides is never read.
TYPED_TEST(logits_of, a_hidden_key_may_hold_anything) {
  using T = typename TypeParam::type;
  for (const double anything : {std::nan(""), oracle::infinity, -oracle::infinity, 7.0}) {
    test::tensor<T> logits({1, 1, 1, 4});
    logits.set({0.5, anything, 1, -2});
    zerotune::bias_logits(typename TypeParam::backend{}, logits.view(),
                          hides_key_one{} | zerotune::initial_token{2.0f});
    EXPECT_EQ(test::to_double(logits.at(1)), -oracle::infinity) << anything;
    EXPECT_NEAR(test::to_double(logits.at(0)), 0.5 + std::log(2.0), 5e-3);
    EXPECT_EQ(test::to_double(logits.at(2)), 1);
    EXPECT_EQ(test::to_double(logits.at(3)), -2);
  }
}

TYPED_TEST(logits_of, a_row_whose_other_keys_the_host_hid_is_left_at_gamma_zero) {
  using T = typename TypeParam::type;
  test::tensor<T> logits({1, 1, 1, 4});
  logits.set({0.75, -oracle::infinity, -oracle::infinity, -oracle::infinity});
  zerotune::bias_logits(typename TypeParam::backend{}, logits.view(),
                        zerotune::initial_token{0.0f});
  EXPECT_EQ(logits.dense()[0], 0.75);
}

TYPED_TEST(logits_of, fewer_dimensions_work_too) {
  using T = typename TypeParam::type;
  const auto modifier = zerotune::causal{} | zerotune::initial_token{4.0f};
  test::tensor<T, 2> two({3, 5});
  test::tensor<T, 3> three({1, 3, 5});
  const typename TypeParam::backend tag{};
  zerotune::bias_logits(tag, two.view(), modifier);
  zerotune::fill_mask(tag, three.view(), modifier);
  EXPECT_TRUE(test::same_bits(two.elements(), three.elements()));
  EXPECT_NEAR(test::to_double(two.at(0)), std::log(4.0), 0.01);
  EXPECT_EQ(test::to_double(two.at(4)), -oracle::infinity);  // query 0 stands at position 2
  EXPECT_EQ(test::to_double(two.at(14)), 0.0);
}

}  // namespace
