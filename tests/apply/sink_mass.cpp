// SPDX-License-Identifier: Apache-2.0
// The weight of the initial token as an output of attention and of decode, against the oracle's
// weights; what it leaves alone; what is refused.
#include <gtest/gtest.h>

#include <vector>

#include "apply/decode_run.hpp"
#include "support/errors.hpp"
#include "support/random_scene.hpp"
#include "zerotune/apply/attention.hpp"

namespace {

using test::index_t;
using test::scene;

template <class Kernel>
class sink_mass_of : public ::testing::Test {
 public:
  using backend = typename Kernel::backend;
  using type = typename Kernel::type;
  using acc = zerotune::accumulator_t<type>;

  struct result {
    test::decoded<type> usual;
    test::tensor<acc, 3> mass;
  };

  template <class Modifier>
  static result run(const scene& s, test::inputs<type>& in, const Modifier& m, bool by_decode,
                    bool asked = true, test::layout order = test::layout::contiguous) {
    result r{test::decoded<type>(s, order),
             test::tensor<acc, 3>({s.batch, s.num_heads, s.q_len}, order)};
    r.mass.fill(77);  // every element is to be overwritten
    const auto fill = [&](auto options) {
      options.softmax_scale = static_cast<acc>(s.scale);
      options.lse = r.usual.lse.view();
      if (asked) options.sink_mass = r.mass.view();
      if (!s.positions.empty()) options.sink_positions = test::list_view(s.positions);
      return options;
    };
    const auto q = in.q.const_view(), k = in.k.const_view(), v = in.v.const_view();
    if (by_decode)
      zerotune::attention_decode(backend{}, q, k, v, r.usual.out.view(), m,
                                 fill(s.options<zerotune::decode_options<acc>>()));
    else
      zerotune::attention(backend{}, q, k, v, r.usual.out.view(), m,
                          fill(s.options<zerotune::attention_options<acc>>()));
    return r;
  }

  /// The column of the initial token in a matrix of weights.
  static std::vector<double> column(const scene& s, const std::vector<double>& weights) {
    std::vector<double> result;
    for (index_t row = 0; row < s.batch * s.num_heads * s.q_len; ++row)
      result.push_back(weights[static_cast<std::size_t>(row * s.kv_len +
                                                        s.initial(row / (s.num_heads * s.q_len)))]);
    return result;
  }

  template <class Modifier>
  static void expect_right(const scene& s, const Modifier& m,
                           test::layout order = test::layout::contiguous) {
    test::inputs<type> in(s, 23, order);
    const oracle::problem problem = in.problem(s);
    const auto expected = column(s, oracle::attend(problem).weights);
    const auto naive = column(s, test::naive_attention<type>(problem).weights);
    for (const bool by_decode : {false, true}) {
      const result got = run(s, in, m, by_decode, true, order);
      EXPECT_TRUE(test::close<type>(got.mass.dense(), expected, naive))
          << describe(s, order) << (by_decode ? " decode" : " attention");
      EXPECT_TRUE(got.mass.gaps_intact());
      EXPECT_TRUE(got.usual.same(run(s, in, m, by_decode, false, order).usual))
          << "the other outputs changed";
    }
  }
};
TYPED_TEST_SUITE(sink_mass_of, test::attention_kernels, test::kernel_names);

TYPED_TEST(sink_mass_of, is_right_at_every_length) {
  for (const index_t kv_len : {1, 2, 63, 64, 65, 200, 1100})
    for (const index_t q_len : {1, 3, 17, 50, 97}) {
      if (q_len > kv_len) continue;
      scene s{.batch = 2, .num_heads = 4, .num_kv_heads = 2, .q_len = q_len, .kv_len = kv_len};
      s.gammas = {4.0f, 0.25f, 1.0f, 0.0f};
      s.head_dim = s.value_dim = 24;
      s.positions = {0, kv_len / 3};
      s.complete();
      this->expect_right(s, s.usual());
    }
}

// A sink that is masked for some rows or all of them, behind every bias, after a softcap.
TYPED_TEST(sink_mass_of, is_right_under_masks_and_transforms) {
  scene s{.batch = 2, .num_heads = 4, .num_kv_heads = 2, .q_len = 75, .kv_len = 137};
  s.gammas = {2.0f, 0.0f, 1.0f, 0.125f};
  s.slopes = {0.5f, 0.25f, 0.0f, 0.0625f};
  s.span = {5, 121}, s.span_gamma = 0.3f;
  s.window = 90;
  s.positions = {60, 136};
  s.complete();
  for (const test::layout order : {test::layout::contiguous, test::layout::spread})
    this->expect_right(s, s.biases(), order);
  s.window = index_t{1} << 40, s.span = {}, s.softcap = 2.0;
  this->expect_right(s, s.everything());
}

TYPED_TEST(sink_mass_of, is_right_for_random_scenes) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const scene s = test::random_scene(seed);
    this->expect_right(s, s.usual());
  }
}

// gamma = 0 excludes the sink; where a row sees nothing else it stays, and has all the weight.
TYPED_TEST(sink_mass_of, is_one_or_nothing_for_gamma_zero) {
  scene s{.num_heads = 1, .num_kv_heads = 1, .q_len = 40, .kv_len = 40};
  s.gammas = {0.0f};
  s.complete();
  test::inputs<typename TypeParam::type> in(s, 3);
  for (const bool by_decode : {false, true}) {
    const auto mass = this->run(s, in, s.usual(), by_decode).mass.dense();
    EXPECT_EQ(mass[0], 1.0);
    for (std::size_t i = 1; i < mass.size(); ++i) EXPECT_EQ(mass[i], 0.0) << i;
  }
}

TYPED_TEST(sink_mass_of, is_nothing_where_nothing_is_seen) {
  scene s{.batch = 1, .num_heads = 2, .num_kv_heads = 1, .q_len = 30, .kv_len = 20};
  s.complete();  // the first ten queries stand before every key
  test::inputs<typename TypeParam::type> in(s, 3);
  for (const bool by_decode : {false, true}) {
    const auto mass = this->run(s, in, s.usual(), by_decode).mass.dense();
    for (std::size_t i = 0; i < 60; ++i)
      if (i % 30 < 10)
        EXPECT_EQ(mass[i], 0.0) << i;
      else
        EXPECT_GT(mass[i], 0.0) << i;
  }
}

TYPED_TEST(sink_mass_of, refuses_what_does_not_fit) {
  using acc = typename TestFixture::acc;
  scene s{.batch = 2, .num_heads = 2, .num_kv_heads = 1, .q_len = 2, .kv_len = 9};
  s.complete();
  test::inputs<typename TypeParam::type> in(s, 3);
  test::tensor<typename TypeParam::type> out({2, 2, 2, 8});
  test::tensor<acc, 3> short_one({2, 2, 1}), mass({2, 2, 2});
  const std::vector<index_t> far{0, 9};
  const auto q = in.q.const_view(), k = in.k.const_view(), v = in.v.const_view();
  const auto message = [&](bool by_decode, const zerotune::tensor_view<acc, 3>& to, bool beyond) {
    const auto with = [&](auto options) {
      options.sink_mass = to;
      options.lse = mass.view();
      if (beyond) options.sink_positions = test::list_view(far);
      return options;
    };
    return test::message_of([&] {
      if (by_decode)
        zerotune::attention_decode(typename TypeParam::backend{}, q, k, v, out.view(), s.usual(),
                                   with(zerotune::decode_options<acc>{}));
      else
        zerotune::attention(typename TypeParam::backend{}, q, k, v, out.view(), s.usual(),
                            with(zerotune::attention_options<acc>{}));
    });
  };
  test::tensor<acc, 3> other({2, 2, 2});
  for (const bool by_decode : {false, true}) {
    EXPECT_TRUE(test::mentions(message(by_decode, short_one.view(), false),
                               {"sink_mass dim 2 (q_len)", "expected 2", "got 1"}));
    EXPECT_TRUE(test::mentions(message(by_decode, mass.view(), false),
                               {"sink_mass", "memory apart from lse"}));
    EXPECT_TRUE(test::mentions(message(by_decode, other.view(), true),
                               {"initial token positions[1]", "[0, 9)", "got 9"}));
  }
}

}  // namespace
