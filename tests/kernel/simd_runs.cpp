// SPDX-License-Identifier: Apache-2.0
// Keys that every row of a panel sees and nothing modifies: scores become weights in registers, and
// maxima are raised late. Each row must come out as if it were alone.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernel/panel_head.hpp"
#include "kernel/strided.hpp"
#include "zerotune/kernel/simd/simd.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"

namespace zt = zerotune;
using zt::index_t;
using namespace panel_test;

namespace {

template <class T>
class simd_runs : public ::testing::Test {};
TYPED_TEST_SUITE(simd_runs, kinds);

template <class Kind>
void set(std::vector<typename Kind::type>& x, index_t i, double value) {
  x[static_cast<std::size_t>(i)] =
      static_cast<typename Kind::type>(static_cast<typename head<Kind>::acc>(value));
}

/// Row `query` times `factor`.
template <class Kind>
void scale_query(head<Kind>& h, index_t query, double factor) {
  for (index_t c = 0; c < h.head_dim; ++c)
    set<Kind>(h.q, query * h.q_row() + c, factor * h.at(h.q, query * h.q_row() + c));
}

template <class Kind>
bool same_row(const head<Kind>& a, index_t i, const head<Kind>& b, index_t j) {
  const auto row = static_cast<std::size_t>(a.value_dim);
  return std::memcmp(&a.out[static_cast<std::size_t>(i) * row],
                     &b.out[static_cast<std::size_t>(j) * row],
                     row * sizeof(typename Kind::type)) == 0 &&
         std::memcmp(&a.lse[static_cast<std::size_t>(i)], &b.lse[static_cast<std::size_t>(j)],
                     sizeof a.lse[0]) == 0;
}

/// Logits of all rows rise by `rise` octaves from the first key to the last.
template <class Kind>
head<Kind> rising(index_t queries, index_t keys, double rise) {
  head<Kind> h(queries, keys, 16, 16);
  h.scale = 1;
  for (index_t i = 0; i < queries; ++i)
    for (index_t c = 0; c < 16; ++c) set<Kind>(h.q, i * h.q_row() + c, c == 0 ? 1 : 0);
  for (index_t j = 0; j < keys; ++j)
    set<Kind>(h.k, j * h.q_row(),
              rise * 0.6931471805599453 * static_cast<double>(j) / static_cast<double>(keys));
  return h;
}

TYPED_TEST(simd_runs, maxima_that_rise_by_less_and_by_more_than_is_left_alone) {
  for (const double rise : {5.0, 20.0, 23.0, 25.0, 39.0, 41.0, 60.0, 130.0, 400.0, 14000.0})
    for (const index_t keys : {130, 700}) {
      head<TypeParam> h = rising<TypeParam>(100, keys, rise);
      // Beside an LSE of that size; float16 ends at 65504.
      h.lse_tolerance *= std::max(1.0, rise / 16);
      h.run(zt::causal{} | zt::initial_token{3.0f});
      h.expect([](index_t q, index_t j) { return causal_bias(q, j) + (j ? 0 : std::log(3.0)); }, 0,
               "rising");
      h.run(zt::causal{}, smallest);
      h.expect(causal_bias, 0, "rising in small blocks");
    }
}

TYPED_TEST(simd_runs, a_maximum_that_is_raised_changes_no_bit_of_its_neighbours) {
  for (const double rise : {30.0, 45.0, 90.0, 200.0}) {
    head<TypeParam> calm = rising<TypeParam>(96, 500, 10), one = calm;
    scale_query(one, 37, rise / 10);
    calm.run(zt::causal{} | zt::initial_token{2.0f});
    one.run(zt::causal{} | zt::initial_token{2.0f});
    for (index_t i = 0; i < 96; ++i) EXPECT_EQ(same_row(calm, i, one, i), i != 37) << i;
    one.lse_tolerance *= 10;
    one.expect([](index_t q, index_t j) { return causal_bias(q, j) + (j ? 0 : std::log(2.0)); }, 0,
               "one row rises");
  }
}

TYPED_TEST(simd_runs, a_row_does_not_depend_on_where_in_a_panel_it_stands) {
  const auto m = zt::causal{} | zt::initial_token{2.0f};
  head<TypeParam> all(150, 400, 24, 24);
  all.run(m);
  for (const index_t fewer : {1, 7, 48, 95}) {
    head<TypeParam> some(150 - fewer, 400, 24, 24);
    some.q.assign(all.q.begin() + static_cast<std::ptrdiff_t>(fewer * all.q_row()), all.q.end());
    some.k = all.k;
    some.v = all.v;
    some.run(m);
    // The few rows of an odd panel at the beginning go one by one, and are summed in another order.
    for (index_t i = 8; i < some.queries; ++i)
      EXPECT_TRUE(same_row(some, i, all, i + fewer)) << fewer << " " << i;
  }
}

TYPED_TEST(simd_runs, nan_in_a_query_reaches_its_row_alone) {
  if (finite_math) GTEST_SKIP() << "finite inputs only";
  for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    head<TypeParam> sound(96, 500, 16, 16), h = sound;
    sound.run(zt::causal{} | zt::initial_token{2.0f});
    set<TypeParam>(h.q, 50 * h.q_row() + 3, bad);
    h.run(zt::causal{} | zt::initial_token{2.0f});
    for (index_t i = 0; i < 96; ++i) {
      if (i != 50) {
        EXPECT_TRUE(same_row(h, i, sound, i)) << i;
        continue;
      }
      EXPECT_TRUE(std::isnan(h.lse[50]));
      for (index_t c = 0; c < 16; ++c) EXPECT_TRUE(std::isnan(h.at(h.out, i * 16 + c)));
    }
  }
}

TYPED_TEST(simd_runs, nan_in_a_key_reaches_the_rows_that_see_it_alone) {
  if (finite_math) GTEST_SKIP() << "finite inputs only";
  head<TypeParam> sound(96, 200, 16, 16);
  sound.run(zt::causal{});
  for (const index_t key : {0, 9, 70, 150})
    for (const double bad : {std::nan(""), HUGE_VAL}) {
      head<TypeParam> h = sound;
      set<TypeParam>(h.k, key * h.q_row() + 15, bad);
      h.run(zt::causal{});
      for (index_t i = 0; i < 96; ++i) {
        if (104 + i < key) {
          EXPECT_TRUE(same_row(h, i, sound, i)) << key << " " << i;
          continue;
        }
        EXPECT_TRUE(std::isnan(h.lse[static_cast<std::size_t>(i)])) << key << " " << i;
        for (index_t c = 0; c < 16; ++c) EXPECT_TRUE(std::isnan(h.at(h.out, i * 16 + c)));
      }
    }
}

TYPED_TEST(simd_runs, a_logit_of_minus_infinity_weighs_nothing) {
  if (finite_math || std::is_same_v<typename TypeParam::type, double> ||
      std::is_same_v<typename TypeParam::type, zt::float16>)
    GTEST_SKIP() << "products of these types do not overflow";
  head<TypeParam> h(96, 300, 16, 16), without = h;
  for (index_t i = 0; i < 96; ++i) {
    set<TypeParam>(h.q, i * h.q_row(), 1e20);
    set<TypeParam>(without.q, i * h.q_row(), 0);
  }
  for (index_t j = 0; j < 300; ++j) {
    set<TypeParam>(h.k, j * h.q_row(), j % 7 == 5 ? -3e38 : 0);
    set<TypeParam>(without.k, j * h.q_row(), 0);
  }
  h.run(zt::causal{});
  std::swap(h.q, without.q);
  std::swap(h.k, without.k);
  h.expect([](index_t q, index_t j) { return j % 7 == 5 ? -HUGE_VAL : causal_bias(q, j); }, 0,
           "minus infinity");
}

TYPED_TEST(simd_runs, gamma_zero_excludes_and_great_logits_do_no_harm) {
  for (const double size : {1.0, 100.0, 10000.0}) {
    head<TypeParam> h(96, 300, 16, 16);
    h.scale = 1;
    for (index_t i = 0; i < 96; ++i)
      for (index_t c = 0; c < 16; ++c) set<TypeParam>(h.q, i * h.q_row() + c, c == i % 16 ? 1 : 0);
    for (index_t j = 0; j < 300; ++j)
      for (index_t c = 0; c < 16; ++c)
        set<TypeParam>(h.k, j * h.q_row() + c, size * h.at(h.k, j * h.q_row() + c) / 2);
    h.lse_tolerance *= std::max(1.0, size / 10);
    // Rounding of the logits themselves.
    if (!std::is_same_v<typename TypeParam::type, double>) h.tolerance += size * 0x1p-22;
    h.run(zt::causal{} | zt::initial_token{0.0f});
    h.expect(
        [](index_t q, index_t j) { return causal_bias(q, j) + (j == 0 && q > 0 ? -HUGE_VAL : 0); },
        0, "gamma 0");
  }
}

TYPED_TEST(simd_runs, rows_that_see_nothing_yet_weigh_nothing_whatever_the_scale) {
  for (const double scale : {0.002, 0.05, 3.0}) {
    head<TypeParam> h(100, 60, 16, 16);  // q_pos -40 ... 59
    h.scale = static_cast<typename head<TypeParam>::acc>(scale);
    h.run(zt::causal{} | zt::initial_token{2.0f}, smallest);
    h.expect([](index_t q, index_t j) { return causal_bias(q, j) + (j ? 0 : std::log(2.0)); }, 0,
             "nothing seen");
    h.run(zt::causal{} | zt::sliding_window{5}, smallest);
    h.expect([](index_t q, index_t j) { return causal_bias(q, j) + (j + 5 <= q ? -HUGE_VAL : 0); },
             0, "window");
  }
}

template <class Batch, class Function>
double one(const Function& f, double x) {
  using real = typename Batch::value_type;
  real values[Batch::size];
  f(Batch(static_cast<real>(x))).store_unaligned(values);
  return static_cast<double>(values[0]);
}

/// Against 2^x in double: with the processor's own instructions, and what stands in for them.
template <class Batch, class Function>
void check_weights(const Function& f, double error) {
  using real = typename Batch::value_type;
  for (double x = -60; x < 32; x += 0.00371) {
    const double exact = std::exp2(static_cast<double>(static_cast<real>(x)));
    ASSERT_NEAR(one<Batch>(f, x) / exact, 1, error) << x;
  }
  for (int x = -60; x <= 32; ++x) EXPECT_EQ(one<Batch>(f, x), std::exp2(x)) << "whole octaves";
  EXPECT_EQ(one<Batch>(f, 40), std::exp2(32));
  EXPECT_EQ(one<Batch>(f, 1e30), std::exp2(32));
  EXPECT_EQ(one<Batch>(f, -1e30), 0);
  EXPECT_EQ(one<Batch>(f, sizeof(real) == 4 ? -125.5 : -1022.0), 0);
  if (finite_math) return;
  EXPECT_EQ(one<Batch>(f, HUGE_VAL), std::exp2(32));
  EXPECT_EQ(one<Batch>(f, -HUGE_VAL), 0);
  EXPECT_TRUE(std::isnan(one<Batch>(f, std::nan("")))) << "a NaN must reach the sum";
}

TEST(simd_weights, are_powers_of_two_within_their_errors) {
  using floats = zt::impl::batch<float, void>;
  using doubles = zt::impl::batch<double, void>;
  check_weights<floats>([](const floats& x) { return zt::impl::weight_of_score(x); }, 2.5e-7);
  check_weights<doubles>([](const doubles& x) { return zt::impl::weight_of_score(x); }, 5e-16);
  check_weights<floats>([](const floats& x) { return zt::impl::weight_of_score_for_bfloat16(x); },
                        1.1e-4);
}

TEST(simd_weights, without_the_processors_instructions_are_the_same_within_their_errors) {
  using floats = zt::impl::batch<float, void>;
  using doubles = zt::impl::batch<double, void>;
  check_weights<floats>([](const floats& x) { return zt::impl::portable_weight(x); }, 2.5e-7);
  check_weights<doubles>([](const doubles& x) { return zt::impl::portable_weight(x); }, 5e-16);
  check_weights<floats>([](const floats& x) { return zt::impl::portable_weight_for_bfloat16(x); },
                        1.1e-4);
}

}  // namespace
