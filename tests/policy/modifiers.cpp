// SPDX-License-Identifier: Apache-2.0
// Each modifier's log_bias, visible, support and effect against one another, by brute force over
// all rows, keys and blocks of a small grid.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/tensor.hpp"
#include "zerotune/policy/alibi.hpp"
#include "zerotune/policy/compose.hpp"
#include "zerotune/policy/identity.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"
#include "zerotune/policy/softcap.hpp"
#include "zerotune/policy/token_span.hpp"

namespace {

using test::list_view;
using zerotune::head_of;
using zerotune::index_t;
using zerotune::range;
using zerotune::row;
using zerotune::tile_effect;

constexpr index_t num_positions = 7;
constexpr int num_heads = 3;
constexpr index_t num_sequences = 2;

const std::vector<float> gammas{1.0f, 0.0f, 2.5f};
const std::vector<float> ones{1.0f, 1.0f, 1.0f};
const std::vector<float> slopes{0.0f, 0.5f, 0.0625f};
const std::vector<index_t> positions{3, 0};

/// A modifier with its type erased for the tables below; the calls go to the real one.
struct erased {
  std::string name;
  std::function<double(row, double)> log_bias;
  std::function<double(row, double, double)> logit;
  std::function<range(row)> visible, support;
  std::function<tile_effect(head_of, range, range)> effect;
};

template <class M>
erased erase(std::string name, M m) {
  erased e;
  e.name = std::move(name);
  if constexpr (zerotune::bias_modifier<M>)
    e.log_bias = [m](row r, double j) { return m.log_bias(r, j); };
  e.logit = [m](row r, double j, double logit) { return zerotune::apply_to_logit(m, r, j, logit); };
  e.visible = [m](row r) { return zerotune::visible_keys(m, r); };
  e.support = [m](row r) { return zerotune::changed_keys(m, r); };
  e.effect = [m](head_of h, range q, range kv) { return m.effect(h, q, kv); };
  return e;
}

std::vector<erased> all_modifiers() {
  using namespace zerotune;
  const initial_token one{list_view(gammas)};
  const initial_token padded = one.at(list_view(positions));
  const token_span span{{2, 4}, list_view(gammas)};
  const alibi distance{list_view(slopes)};
  return {
      erase("identity", identity{}),
      erase("initial_token", one),
      erase("initial_token gamma 1", initial_token{1.0f}),
      erase("initial_token gamma 0", initial_token{0.0f}),
      erase("initial_token padded", padded),
      erase("initial_token ones padded", initial_token{list_view(ones)}.at(list_view(positions))),
      erase("token_span", span),
      erase("token_span empty", token_span{{4, 2}, head_gammas{3.0f}}),
      erase("causal", causal{}),
      erase("sliding_window 1", sliding_window{1}),
      erase("sliding_window 3", sliding_window{3}),
      erase("alibi", distance),
      erase("softcap", softcap{3.0f}),
      erase("causal | initial_token", causal{} | one),
      erase("causal | padded", causal{} | padded),
      erase("window | padded", sliding_window{2} | padded),
      erase("span | alibi", span | distance),
      erase("all biases", causal{} | sliding_window{4} | distance | span | padded),
      erase("softcap | causal | padded", softcap{2.0f} | causal{} | padded),
  };
}

template <class Body>
void for_each_row(const Body& body) {
  for (index_t b = 0; b < num_sequences; ++b)
    for (int h = 0; h < num_heads; ++h)
      for (index_t q = -2; q < num_positions + 2; ++q) body(row{b, h, q});
}

bool is_hidden(double logit) { return logit == -std::numeric_limits<double>::infinity(); }

TEST(every_modifier, hides_with_its_bias_what_it_says_is_not_visible) {
  for (const erased& m : all_modifiers())
    for_each_row([&](row r) {
      const range seen = m.visible(r);
      for (index_t j = 0; j < num_positions; ++j) {
        if (seen.contains(j)) continue;
        EXPECT_TRUE(is_hidden(m.logit(r, static_cast<double>(j), 1.25)))
            << m.name << " q " << r.q_pos << " kv " << j;
      }
    });
}

// The masks here are intervals: what `visible` admits has a finite logit, so that a kernel which
// trusts `visible` and one which adds the bias agree.
TEST(every_modifier, keeps_a_finite_logit_where_it_says_visible) {
  for (const erased& m : all_modifiers())
    for_each_row([&](row r) {
      const range seen = m.visible(r);
      for (index_t j = 0; j < num_positions; ++j)
        if (seen.contains(j)) {
          EXPECT_TRUE(std::isfinite(m.logit(r, static_cast<double>(j), 1.25)))
              << m.name << " q " << r.q_pos << " kv " << j;
        }
    });
}

TEST(every_modifier, changes_no_visible_logit_outside_its_support) {
  for (const erased& m : all_modifiers())
    for_each_row([&](row r) {
      const range seen = m.visible(r), changed = m.support(r);
      for (index_t j = 0; j < num_positions; ++j)
        if (seen.contains(j) && !changed.contains(j)) {
          EXPECT_EQ(m.logit(r, static_cast<double>(j), 1.25), 1.25)
              << m.name << " q " << r.q_pos << " kv " << j;
        }
    });
}

// `none` on a block that changes would skip the modifier; `masked` on one that is seen would lose
// keys. Every block of the grid, one row and many, is tried.
TEST(every_modifier, reports_its_effect_conservatively) {
  for (const erased& m : all_modifiers())
    for (index_t b = 0; b < num_sequences; ++b)
      for (int h = 0; h < num_heads; ++h)
        for (index_t q0 = -2; q0 < num_positions; ++q0)
          for (index_t q1 = q0 + 1; q1 <= num_positions; ++q1)
            for (index_t k0 = 0; k0 < num_positions; ++k0)
              for (index_t k1 = k0 + 1; k1 <= num_positions; ++k1) {
                const tile_effect effect = m.effect({b, h}, {q0, q1}, {k0, k1});
                if (effect == tile_effect::apply) continue;
                for (index_t q = q0; q < q1; ++q)
                  for (index_t j = k0; j < k1; ++j) {
                    const double logit = m.logit({b, h, q}, static_cast<double>(j), 1.25);
                    const bool right =
                        effect == tile_effect::none ? logit == 1.25 : is_hidden(logit);
                    ASSERT_TRUE(right) << m.name << " head " << h << " q [" << q0 << ", " << q1
                                       << ") kv [" << k0 << ", " << k1 << ") at " << q << ", " << j;
                  }
              }
}

// A kernel pays for a modifier only where effect says `apply`: it must not say so everywhere.
TEST(effect, is_none_or_masked_where_a_kernel_can_skip_work) {
  const zerotune::initial_token sink{list_view(gammas)};
  EXPECT_EQ(sink.effect({0, 0}, {0, 8}, {0, 8}), tile_effect::none) << "gamma = 1";
  EXPECT_EQ(sink.effect({0, 2}, {0, 8}, {0, 8}), tile_effect::apply);
  EXPECT_EQ(sink.effect({0, 2}, {0, 8}, {1, 8}), tile_effect::none);
  const auto padded = sink.at(list_view(positions));
  EXPECT_EQ(padded.effect({0, 2}, {0, 8}, {0, 3}), tile_effect::masked);
  EXPECT_EQ(padded.effect({0, 2}, {0, 8}, {4, 8}), tile_effect::none);
  EXPECT_EQ(padded.effect({1, 2}, {0, 8}, {1, 8}), tile_effect::none);
  EXPECT_EQ(zerotune::causal{}.effect(0, {4, 8}, {8, 12}), tile_effect::masked);
  EXPECT_EQ(zerotune::causal{}.effect(0, {4, 8}, {0, 5}), tile_effect::none);
  EXPECT_EQ(zerotune::causal{}.effect(0, {4, 8}, {0, 6}), tile_effect::apply);
  EXPECT_EQ(zerotune::sliding_window{2}.effect(0, {4, 8}, {0, 3}), tile_effect::masked);
  EXPECT_EQ(zerotune::sliding_window{2}.effect(0, {4, 8}, {6, 8}), tile_effect::none);
  EXPECT_EQ(zerotune::identity{}.effect(0, {0, 8}, {0, 8}), tile_effect::none);
  const zerotune::alibi distance{list_view(slopes)};
  EXPECT_EQ(distance.effect(0, {0, 8}, {0, 8}), tile_effect::none) << "slope 0";
  EXPECT_EQ(distance.effect(1, {0, 8}, {0, 8}), tile_effect::apply);
}

TEST(initial_token, adds_log_gamma_at_the_initial_token_only) {
  const zerotune::initial_token sink =
      zerotune::initial_token{list_view(gammas)}.at(list_view(positions));
  for (index_t b = 0; b < num_sequences; ++b)
    for (int h = 0; h < num_heads; ++h)
      for (index_t j = 0; j < num_positions; ++j) {
        const index_t initial = positions[static_cast<std::size_t>(b)];
        const double bias = sink.log_bias(row{b, h, 6}, static_cast<double>(j));
        if (j < initial) {
          EXPECT_EQ(bias, -std::numeric_limits<double>::infinity());
        } else if (j > initial || h == 0) {
          EXPECT_EQ(bias, 0.0);
        } else if (h == 1) {
          EXPECT_EQ(bias, static_cast<double>(zerotune::zero_gamma_bias)) << "finite, not a mask";
        } else {
          EXPECT_DOUBLE_EQ(bias, std::log(2.5));
        }
      }
  EXPECT_EQ(zerotune::zero_gamma_bias, -1e30f);
}

TEST(initial_token, of_extreme_gammas_has_a_finite_bias) {
  for (const float gamma : {1e-45f, 1.4e-42f, 1.17549435e-38f, 1e38f, 3.4028235e38f}) {
    const zerotune::initial_token sink{gamma};
    EXPECT_NEAR(sink.log_bias(row{}, 0.0), std::log(static_cast<double>(gamma)), 1e-12) << gamma;
    EXPECT_NEAR(sink.log_bias(row{}, 0.0f), std::log(static_cast<double>(gamma)), 1e-4) << gamma;
  }
  EXPECT_EQ(zerotune::initial_token{-0.0f}.log_bias(row{}, 0.0), -1e30f) << "-0 is 0";
}

TEST(causal, sees_its_own_position_and_the_past) {
  for (index_t q = -2; q < 6; ++q)
    for (index_t j = 0; j < 6; ++j)
      EXPECT_EQ(is_hidden(zerotune::causal{}.log_bias(row{0, 0, q}, static_cast<double>(j))),
                j > q);
}

TEST(sliding_window, of_size_n_sees_n_keys_itself_included) {
  for (index_t size = 1; size < 5; ++size)
    for (index_t j = 0; j < 8; ++j)
      EXPECT_EQ(
          is_hidden(zerotune::sliding_window{size}.log_bias(row{0, 0, 6}, static_cast<double>(j))),
          j <= 6 - size);
}

TEST(alibi, is_minus_the_slope_times_the_distance) {
  const zerotune::alibi distance{list_view(slopes)};
  EXPECT_EQ(distance.log_bias(row{0, 1, 6}, 2.0), -2.0);
  EXPECT_EQ(distance.log_bias(row{0, 2, 6}, 2.0f), -0.25f);
  for (int head = 0; head < 8; ++head)
    EXPECT_EQ(zerotune::alibi::slope(head, 8), std::exp2(-static_cast<float>(head + 1)));
}

TEST(softcap, bounds_a_logit_smoothly) {
  const zerotune::softcap cap{30.0f};
  for (const double logit : {-1e6, -40.0, -1.0, 0.0, 0.5, 29.0, 1e6})
    EXPECT_DOUBLE_EQ(cap.transform_logit(row{}, 0.0, logit), 30.0 * std::tanh(logit / 30.0));
}

TEST(token_span, scales_its_keys_and_no_other) {
  const zerotune::token_span span{{2, 4}, list_view(gammas)};
  for (index_t j = 0; j < 6; ++j)
    EXPECT_DOUBLE_EQ(span.log_bias(row{0, 2, 0}, static_cast<double>(j)),
                     j == 2 || j == 3 ? std::log(2.5) : 0.0);
}

}  // namespace
