// SPDX-License-Identifier: Apache-2.0
// gamma = 1 changes no bit, in every form, also beside other heads of a shared key-value head; row
// 0 of a causal model never changes; results do not depend on the rest of the batch.
#include <gtest/gtest.h>

#include <vector>

#include "support/backends.hpp"
#include "support/forms.hpp"
#include "support/random_scene.hpp"
#include "zerotune/policy/identity.hpp"

namespace {

using test::index_t;
using test::scene;

template <class Kernel>
class identity_of : public ::testing::Test {
 public:
  using all_forms = test::forms<typename Kernel::backend, typename Kernel::type>;
};
TYPED_TEST_SUITE(identity_of, test::fault_kernels, test::kernel_names);

TYPED_TEST(identity_of, gamma_one_is_bitwise_what_identity_gives) {
  for (const index_t length : {1, 5, 67, 257}) {
    scene s{.batch = 2, .num_heads = 4, .num_kv_heads = 2, .q_len = std::min<index_t>(length, 5)};
    s.kv_len = length;
    s.head_dim = 19, s.value_dim = 13;
    s.complete();
    typename TestFixture::all_forms f(s, 2), untouched(s, 2);
    for (int form = 0; form < f.count; ++form) {
      f.start(form), untouched.start(form);
      const auto before = f.memory();
      f.call(form, zerotune::causal{} | s.sink());
      untouched.call(form, zerotune::causal{} | zerotune::identity{});
      EXPECT_EQ(f.memory(), untouched.memory()) << f.names[form] << " length " << length;
      const bool in_place = form == 0 || form == 3 || form == 4;
      EXPECT_TRUE(!in_place || f.memory() == before) << f.names[form];
    }
  }
}

// Renormalising all heads of a call, or all query heads of a group, would change the others.
TYPED_TEST(identity_of, unselected_heads_are_bitwise_unchanged_inside_a_shared_group) {
  scene s{.batch = 2, .num_heads = 6, .num_kv_heads = 2, .q_len = 7, .kv_len = 67};
  s.head_dim = 19, s.value_dim = 13;
  s.gammas = {1.0f, 7.0f, 1.0f, 0.0f, 1.0f, 1e-3f};
  s.complete();
  scene plain = s;
  plain.gammas.assign(6, 1.0f);
  typename TestFixture::all_forms f(s, 2), untouched(plain, 2);
  for (int form = 0; form < f.count; ++form) {
    f.start(form), untouched.start(form);
    f.call(form, s.usual()), untouched.call(form, plain.usual());
    const auto compare = [&](auto& actual, auto& expected) {
      const index_t per_head = actual.size() / (s.batch * s.num_heads);
      for (index_t i = 0; i < actual.size(); ++i)
        ASSERT_TRUE(s.gammas[static_cast<std::size_t>(i / per_head % s.num_heads)] != 1.0f ||
                    test::to_double(actual.at(i)) == test::to_double(expected.at(i)))
            << f.names[form] << " head " << i / per_head % s.num_heads;
    };
    compare(f.out, untouched.out), compare(f.corrected, untouched.corrected);
    compare(f.square, untouched.square), compare(f.lse, untouched.lse);
  }
}

// a_0 = 1 in row 0, so k_0 and v_0 of every layer can be computed once per model.
TYPED_TEST(identity_of, row_zero_of_a_causal_model_never_changes) {
  for (const float gamma : {0.0f, 1e-45f, 0.3f, 5.0f, 1e38f}) {
    scene s{.batch = 2, .num_heads = 2, .num_kv_heads = 1, .q_len = 9, .kv_len = 9};
    s.complete();
    scene plain = s;
    s.gammas = {gamma, gamma};
    typename TestFixture::all_forms f(s, 2), untouched(plain, 2);
    for (const int form : {0, 3, 4, 5}) {
      if (form >= f.count) continue;
      f.start(form), untouched.start(form);
      f.call(form, s.usual()), untouched.call(form, plain.usual());
      for (index_t b = 0; b < 2; ++b)
        for (index_t h = 0; h < 2; ++h) {
          for (index_t j = 0; j < 9; ++j)
            EXPECT_EQ(test::to_double(f.square.view()(b, h, 0, j)),
                      test::to_double(untouched.square.view()(b, h, 0, j)));
          for (index_t c = 0; c < s.value_dim; ++c) {
            auto& actual = form == 5 ? f.out : f.corrected;
            auto& expected = form == 5 ? untouched.out : untouched.corrected;
            EXPECT_EQ(test::to_double(actual.view()(b, h, 0, c)),
                      test::to_double(expected.view()(b, h, 0, c)))
                << f.names[form] << " gamma " << gamma;
          }
        }
    }
  }
}

TYPED_TEST(identity_of, a_sequence_is_bitwise_the_same_alone_and_in_any_batch) {
  using T = typename TypeParam::type;
  scene s{.batch = 3, .num_heads = 4, .num_kv_heads = 2, .q_len = 6, .kv_len = 45};
  s.gammas = {2.0f, 0.0f, 1.0f, 0.5f};
  s.positions = {0, 5, 2};
  s.kv_lengths = {45, 33, 21};
  s.complete();
  typename TestFixture::all_forms together(s, 2);
  for (int form = 0; form < together.count; ++form) {
    together.start(form);
    for (index_t b = 0; b < 3; ++b) {
      scene one = s;
      one.batch = 1;
      one.positions = {s.positions[static_cast<std::size_t>(b)]};
      one.kv_lengths = {s.kv_lengths[static_cast<std::size_t>(b)]};
      typename TestFixture::all_forms alone(one, 2);
      typename TestFixture::all_forms batch(s, 2);
      batch.start(form);
      const auto copy = [&](auto& to, auto& from) {
        for (index_t i = 0; i < to.size(); ++i) to.at(i) = from.at(b * to.size() + i);
      };
      copy(alone.in.q, batch.in.q), copy(alone.in.k, batch.in.k), copy(alone.in.v, batch.in.v);
      copy(alone.square, batch.square), copy(alone.corrected, batch.corrected);
      copy(alone.lse, batch.lse), copy(alone.mass, batch.mass), copy(alone.out, batch.out);
      alone.call(form, one.usual());
      batch.call(form, s.usual());
      const auto compare = [&](auto& mine, auto& all) {
        for (index_t i = 0; i < mine.size(); ++i)
          ASSERT_EQ(std::memcmp(&mine.at(i), &all.at(b * mine.size() + i), sizeof(mine.at(i))), 0)
              << batch.names[form] << " sequence " << b;
      };
      compare(alone.square, batch.square), compare(alone.corrected, batch.corrected);
      compare(alone.out, batch.out), compare(alone.lse, batch.lse);
    }
  }
  static_assert(zerotune::element<T>);
}

}  // namespace
