// SPDX-License-Identifier: Apache-2.0
// Panels of queries on the SIMD back end against softmax(modified(scale Q K^T)) V in double.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernel/panel_head.hpp"
#include "zerotune/kernel/simd/simd.hpp"
#include "zerotune/policy/alibi.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"
#include "zerotune/policy/softcap.hpp"

namespace zt = zerotune;
using zt::index_t;
using namespace panel_test;

namespace {

template <class T>
class simd_attention : public ::testing::Test {};
TYPED_TEST_SUITE(simd_attention, kinds);

TYPED_TEST(simd_attention, every_number_of_queries) {
  constexpr index_t lanes = zt::row_ops<zt::backend::simd<>, typename TypeParam::type>::lanes;
  for (index_t queries = 1; queries <= 4 * lanes + 1; ++queries)
    for (const index_t earlier : {0, 70}) {
      head<TypeParam> h(queries, queries + earlier, 19, 21);
      h.run(zt::causal{} | zt::initial_token{3.0f});
      h.expect([](index_t q, index_t j) { return causal_bias(q, j) + (j ? 0 : std::log(3.0)); }, 0,
               "gamma 3");
    }
}

TYPED_TEST(simd_attention, every_dimension_and_stride) {
  for (const index_t stride : {1, 2})
    for (const index_t dim : {1, 2, 7, 8, 15, 16, 17, 64, 80, 96, 128, 256, 257, 300}) {
      head<TypeParam> h(20, 75, dim, dim == 17 ? 5 : dim, stride);
      h.scale = static_cast<typename head<TypeParam>::acc>(1 / std::sqrt(static_cast<double>(dim)));
      h.run(zt::causal{} | zt::initial_token{0.25f});
      h.expect([](index_t q, index_t j) { return causal_bias(q, j) + (j ? 0 : std::log(0.25)); }, 0,
               "gamma 1/4");
    }
}

TYPED_TEST(simd_attention, modifiers) {
  const float slopes[] = {0.5f, 0.125f};
  const zt::alibi slope{zt::tensor_view<const float, 1>(slopes, {2})};
  for (const index_t keys : {40, 131}) {
    head<TypeParam> h(40, keys, 24, 24);
    h.run(zt::identity{});
    h.expect([](index_t, index_t) { return 0.0; }, 0, "identity");
    h.run(zt::softcap{1.5f} | zt::causal{} | slope);
    h.expect(
        [](index_t q, index_t j) { return causal_bias(q, j) - 0.125 * static_cast<double>(q - j); },
        1.5, "softcap and alibi");
    h.run(zt::causal{} | zt::sliding_window{9} | zt::initial_token{2.0f});
    h.expect(
        [](index_t q, index_t j) {
          return causal_bias(q, j) + (j < q - 8 ? -HUGE_VAL : j ? 0 : std::log(2.0));
        },
        0, "window");
  }
}

TYPED_TEST(simd_attention, queries_before_every_key_see_nothing) {
  head<TypeParam> h(50, 20, 16, 16);  // q_pos -30 ... 19
  h.run(zt::causal{} | zt::initial_token{2.0f});
  h.expect([](index_t q, index_t j) { return causal_bias(q, j) + (j ? 0 : std::log(2.0)); }, 0,
           "nothing seen");
}

TYPED_TEST(simd_attention, gamma_zero_excludes_exactly_unless_nothing_else_is_seen) {
  head<TypeParam> h(40, 40, 16, 16);
  h.run(zt::causal{} | zt::initial_token{0.0f});
  h.expect(
      [](index_t q, index_t j) { return causal_bias(q, j) + (j == 0 && q > 0 ? -HUGE_VAL : 0.0); },
      0, "gamma 0");
}

TYPED_TEST(simd_attention, gamma_one_changes_no_bit) {
  for (const index_t queries : {5, 33, 64}) {
    head<TypeParam> a(queries, 70, 32, 32), b = a;
    a.run(zt::causal{} | zt::identity{});
    b.run(zt::causal{} | zt::initial_token{1.0f});
    EXPECT_EQ(
        std::memcmp(a.out.data(), b.out.data(), a.out.size() * sizeof(typename TypeParam::type)),
        0);
    EXPECT_EQ(std::memcmp(a.lse.data(), b.lse.data(), a.lse.size() * sizeof a.lse[0]), 0);
  }
}

/// Hides a key by its bias alone: the interval of visible keys does not say so.
struct hides {
  index_t key;
  template <class Batch>
  Batch log_bias(zt::row, Batch position) const {
    using real = zt::impl::value_of<Batch>;
    using zt::select;
    return select(position == Batch(static_cast<real>(key)), Batch(zt::impl::mask_bias<real>()),
                  Batch(real(0)));
  }
  zt::tile_effect effect(int, zt::range, zt::range keys) const {
    return keys.contains(key) ? zt::tile_effect::apply : zt::tile_effect::none;
  }
};

TYPED_TEST(simd_attention, a_key_hidden_by_its_bias_alone) {
  head<TypeParam> h(33, 70, 16, 16);
  const auto bias = [](index_t q, index_t j) { return j == 20 ? -HUGE_VAL : causal_bias(q, j); };
  h.run(zt::causal{} | hides{20});
  h.expect(bias, 0, "hidden");
  if (finite_math) GTEST_SKIP() << "finite inputs only";
  const auto expected = h.out;
  for (index_t c = 0; c < 16; ++c) {
    h.k[static_cast<std::size_t>(20 * h.q_row() + c)] =
        static_cast<typename TypeParam::type>(std::nanf(""));
    h.v[static_cast<std::size_t>(20 * h.v_row() + c)] =
        static_cast<typename TypeParam::type>(std::nanf(""));
  }
  h.run(zt::causal{} | hides{20});
  EXPECT_EQ(std::memcmp(h.out.data(), expected.data(),
                        expected.size() * sizeof(typename TypeParam::type)),
            0);
}

TYPED_TEST(simd_attention, a_key_that_is_not_finite_reaches_the_rows_that_see_it_only) {
  if (finite_math) GTEST_SKIP() << "finite inputs only";
  for (const float bad : {std::nanf(""), HUGE_VALF}) {
    head<TypeParam> h(40, 70, 16, 16), sound = h;
    sound.run(zt::softcap{2.0f} | zt::causal{});
    h.k[static_cast<std::size_t>(50 * h.q_row() + 3)] = static_cast<typename TypeParam::type>(bad);
    h.run(zt::softcap{2.0f} | zt::causal{});
    for (index_t i = 0; i < 40; ++i)
      for (index_t c = 0; c < 16; ++c) {
        const double got = h.at(h.out, i * 16 + c);
        if (30 + i >= 50)
          EXPECT_TRUE(std::isnan(got)) << i;
        else
          EXPECT_EQ(got, sound.at(sound.out, i * 16 + c)) << i;
      }
  }
}

/// Rows see the first or the last four keys, never those between.
struct two_ends {
  template <class Batch>
  Batch log_bias(zt::row r, Batch position) const {
    return zt::impl::bias_outside(visible(r), position);
  }
  zt::range visible(zt::row r) const { return r.q_pos % 2 ? zt::range{0, 4} : zt::range{66, 70}; }
  zt::range support(zt::row) const { return {}; }
  zt::tile_effect effect(int, zt::range, zt::range) const { return zt::tile_effect::apply; }
};

TYPED_TEST(simd_attention, keys_between_the_rows_intervals_are_never_read) {
  head<TypeParam> h(40, 70, 16, 16);
  if (!finite_math)
    for (index_t j = 4; j < 66; ++j) {
      h.k[static_cast<std::size_t>(j * h.q_row())] =
          static_cast<typename TypeParam::type>(std::nanf(""));
      h.v[static_cast<std::size_t>(j * h.v_row())] =
          static_cast<typename TypeParam::type>(std::nanf(""));
    }
  h.run(two_ends{});
  h.expect([](index_t q, index_t j) { return (q % 2 ? j < 4 : j >= 66) ? 0.0 : -HUGE_VAL; }, 0,
           "two ends");
}

TYPED_TEST(simd_attention, blocks_of_keys_and_panels_end_anywhere) {
  for (const index_t queries : {9, 31, 48, 49, 97, 130})
    for (const index_t earlier : {-7, 0, 15, 33, 64, 100}) {
      if (queries + earlier < 1) continue;
      head<TypeParam> h(queries, queries + earlier, 33, 35);
      h.run(zt::causal{} | zt::initial_token{3.0f}, smallest);
      h.expect([](index_t q, index_t j) { return causal_bias(q, j) + (j ? 0 : std::log(3.0)); }, 0,
               "smallest blocks");
      for (const index_t window : {1, 20, 47}) {
        h.run(zt::causal{} | zt::sliding_window{window}, smallest);
        h.expect([&](index_t q,
                     index_t j) { return causal_bias(q, j) + (j + window <= q ? -HUGE_VAL : 0); },
                 0, "window");
      }
    }
}

TYPED_TEST(simd_attention, maxima_that_grow_from_block_to_block) {
  using type = typename TypeParam::type;
  for (const double slope : {0.02, 0.3}) {  // logits up to some hundreds
    head<TypeParam> h(50, 200, 16, 16);
    for (index_t j = 0; j < 200; ++j)
      for (index_t c = 0; c < 16; ++c)
        h.k[static_cast<std::size_t>(j * h.q_row() + c)] =
            static_cast<type>(static_cast<typename head<TypeParam>::acc>(
                slope * static_cast<double>(j) / 8 * (c % 2 ? 1 : -1)));
    for (index_t i = 0; i < 50; ++i)
      for (index_t c = 0; c < 16; ++c)
        h.q[static_cast<std::size_t>(i * h.q_row() + c)] = static_cast<type>(c % 2 ? 0.75f : -0.5f);
    h.lse_tolerance *= 20;  // beside an LSE of a hundred
    h.run(zt::causal{}, smallest);
    h.expect([](index_t q, index_t j) { return causal_bias(q, j); }, 0, "rising");
    h.scale = -h.scale;  // falling, and a factor below zero
    h.run(zt::causal{}, smallest);
    h.expect([](index_t q, index_t j) { return causal_bias(q, j); }, 0, "falling");
  }
}

TYPED_TEST(simd_attention, tasks_change_no_bit) {
  const auto m = zt::causal{} | zt::initial_token{2.0f};
  head<TypeParam> a(140, 170, 24, 24), b = a;
  a.run(m, {1 << 13, 1});
  b.run(m, {1 << 13, 1 << 24});
  EXPECT_EQ(
      std::memcmp(a.out.data(), b.out.data(), a.out.size() * sizeof(typename TypeParam::type)), 0);
  EXPECT_EQ(std::memcmp(a.lse.data(), b.lse.data(), a.lse.size() * sizeof a.lse[0]), 0);
}

TYPED_TEST(simd_attention, a_value_that_is_not_finite_reaches_the_rows_that_weigh_it_only) {
  if (finite_math) GTEST_SKIP() << "finite inputs only";
  for (const float bad : {std::nanf(""), HUGE_VALF}) {
    head<TypeParam> h(40, 70, 16, 16), sound = h;
    sound.run(zt::causal{});
    h.v[static_cast<std::size_t>(50 * h.v_row() + 3)] = static_cast<typename TypeParam::type>(bad);
    h.run(zt::causal{});
    for (index_t i = 0; i < 40; ++i)
      for (index_t c = 0; c < 16; ++c) {
        const double got = h.at(h.out, i * 16 + c);
        if (30 + i >= 50 && c == 3)
          EXPECT_FALSE(std::isfinite(got)) << i;
        else  // pairs are summed in another order there
          EXPECT_NEAR(got, sound.at(sound.out, i * 16 + c), TypeParam::rounds_weights() ? 8e-3 : 0)
              << i << " " << c;
      }
  }
}

/// A modifier as a user writes it: a bias that falls with the distance, slower and slower.
struct distance_bias {
  float strength;
  template <class Batch>
  Batch log_bias(zt::row r, Batch kv_pos) const {
    using real = zt::impl::value_of<Batch>;
    const Batch distance = Batch(static_cast<real>(r.q_pos)) - kv_pos, one(real(1));
    return Batch(real(-strength)) * distance / (distance + one + one);
  }
  zt::tile_effect effect(int, zt::range, zt::range) const { return zt::tile_effect::apply; }
};

TYPED_TEST(simd_attention, a_users_bias_is_called_with_batches) {
  using batch = zt::impl::batch<typename head<TypeParam>::acc, void>;
  static_assert(zt::impl::takes_batch<distance_bias, batch>::value);
  const auto bias = [](index_t q, index_t j) {
    const auto distance = static_cast<double>(q - j);
    return causal_bias(q, j) - 1.5 * distance / (distance + 2);
  };
  for (const index_t queries : {20, 67}) {
    head<TypeParam> h(queries, queries + 40, 24, 24);
    h.run(zt::causal{} | distance_bias{1.5f});
    h.expect(bias, 0, "distance");
    h.run(zt::softcap{2.0f} | zt::causal{} | distance_bias{1.5f}, smallest);
    h.expect(bias, 2, "distance after a softcap");
  }
}

}  // namespace
