// SPDX-License-Identifier: Apache-2.0
// Composition: sums of biases in any order, masks before everything, transforms before biases.
#include "zerotune/policy/compose.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "support/tensor.hpp"
#include "zerotune/policy/alibi.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"
#include "zerotune/policy/softcap.hpp"
#include "zerotune/policy/token_span.hpp"

namespace {

using namespace zerotune;
using test::list_view;

const std::vector<float> slopes{0.25f, 0.5f};
const std::vector<index_t> positions{2};

/// Adds half the key's position: a modifier of the simplest kind.
struct ramp {
  template <class Batch>
  Batch log_bias(row, Batch kv_pos) const {
    return kv_pos * Batch(0.5f);
  }
  tile_effect effect(int, range, range) const { return tile_effect::apply; }
};
/// One that knows no vectors, and no optional member.
struct scalar_only {
  float log_bias(row r, float kv_pos) const { return r.q_pos % 2 ? kv_pos : 0.0f; }
  double log_bias(row r, double kv_pos) const { return r.q_pos % 2 ? kv_pos : 0.0; }
  tile_effect effect(head_of, range, range) const { return tile_effect::apply; }
};
struct doubled {
  template <class Batch>
  Batch transform_logit(row, Batch, Batch logit) const {
    return logit + logit;
  }
  tile_effect effect(int, range, range) const { return tile_effect::apply; }
};
struct no_effect {
  float log_bias(row, float) const { return 0; }
};

static_assert(bias_modifier<ramp> && logit_modifier<ramp>);
static_assert(bias_modifier<scalar_only> && logit_modifier<scalar_only>);
static_assert(logit_modifier<doubled> && !bias_modifier<doubled>);
static_assert(!modifier<no_effect> && !logit_modifier<no_effect> && !logit_modifier<int>);
static_assert(logit_modifier<softcap> && !bias_modifier<softcap>);
static_assert(bias_modifier<identity> && bias_modifier<initial_token> &&
              bias_modifier<token_span> && bias_modifier<causal> && bias_modifier<sliding_window> &&
              bias_modifier<alibi>);
static_assert(bias_modifier<decltype(causal{} | initial_token{2.0f})>);
static_assert(!bias_modifier<decltype(softcap{1} | initial_token{2.0f})>);
static_assert(std::is_trivially_copyable_v<decltype(softcap{1} | causal{} | initial_token{2.0f})>);

template <class A, class B>
void expect_same(const A& a, const B& b) {
  for (int head = 0; head < 2; ++head)
    for (index_t q = -1; q < 7; ++q) {
      const row r{0, head, q};
      EXPECT_EQ(visible_keys(a, r).begin, visible_keys(b, r).begin);
      EXPECT_EQ(visible_keys(a, r).end, visible_keys(b, r).end);
      EXPECT_EQ(changed_keys(a, r).begin, changed_keys(b, r).begin);
      EXPECT_EQ(changed_keys(a, r).end, changed_keys(b, r).end);
      for (index_t j = 0; j < 7; ++j) {
        // Sums of floats in another order may differ in the last bit.
        const double x = a.log_bias(r, static_cast<double>(j));
        const double y = b.log_bias(r, static_cast<double>(j));
        if (std::isfinite(x)) {
          EXPECT_NEAR(x, y, 1e-14 * (1 + std::abs(x)));
        } else {
          EXPECT_EQ(x, y);
        }
        EXPECT_EQ(a.effect(head_of{0, head}, range{q, q + 2}, range{j, j + 2}),
                  b.effect(head_of{0, head}, range{q, q + 2}, range{j, j + 2}));
      }
    }
}

TEST(composition, of_biases_does_not_depend_on_their_order) {
  const initial_token sink = initial_token{2.0f}.at(list_view(positions));
  const token_span span{{1, 5}, head_gammas{0.25f}};
  const alibi distance{list_view(slopes)};
  expect_same(causal{} | sink, sink | causal{});
  expect_same(span | sink, sink | span);
  expect_same(causal{} | sliding_window{3} | distance | span | sink,
              sink | span | distance | sliding_window{3} | causal{});
  expect_same((causal{} | span) | sink, causal{} | (span | sink));
  expect_same(compose(causal{}, span, sink), causal{} | span | sink);
}

TEST(composition, sums_biases) {
  const auto m = ramp{} | scalar_only{} | initial_token{4.0f};
  EXPECT_DOUBLE_EQ(m.log_bias(row{0, 0, 1}, 6.0), 9.0);
  EXPECT_DOUBLE_EQ(m.log_bias(row{0, 0, 2}, 6.0), 3.0);
  EXPECT_DOUBLE_EQ(m.log_bias(row{0, 0, 2}, 0.0), std::log(4.0));
}

// gamma = 0 on a hidden key stays hidden; two masks are still a mask and never NaN.
TEST(composition, of_masks_and_zeros_hides_without_nan) {
  const auto m = causal{} | sliding_window{1} | initial_token{0.0f}.at(list_view(positions));
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(m.log_bias(row{0, 0, 0}, 5.0), -infinity);
  EXPECT_EQ(m.log_bias(row{0, 0, 6}, 0.0), -infinity);
  EXPECT_EQ(m.log_bias(row{0, 0, 6}, 2.0), -infinity);
  EXPECT_EQ(m.log_bias(row{0, 0, 2}, 2.0), -1e30f);
}

TEST(composition, is_masked_if_any_part_is_and_none_only_if_all_are) {
  const auto m = causal{} | initial_token{2.0f};
  EXPECT_EQ(m.effect({}, {2, 4}, {0, 2}), tile_effect::apply);   // none | apply
  EXPECT_EQ(m.effect({}, {2, 4}, {1, 3}), tile_effect::none);    // none | none
  EXPECT_EQ(m.effect({}, {2, 4}, {4, 6}), tile_effect::masked);  // masked | none
  const auto both = initial_token{2.0f} | initial_token{3.0f}.at(list_view(positions));
  EXPECT_EQ(both.effect({}, {4, 6}, {0, 2}), tile_effect::masked);  // apply | masked
  EXPECT_EQ((initial_token{1.0f} | causal{}).effect({}, {4, 6}, {0, 2}), tile_effect::none);
}

TEST(composition, applies_transforms_before_biases_whatever_their_grouping) {
  const double cap = 2.0 * std::tanh(3.0 / 2.0), bias = std::log(5.0);
  const initial_token sink{5.0f};
  EXPECT_DOUBLE_EQ(apply_to_logit(softcap{2.0f} | sink, row{}, 0.0, 3.0), cap + bias);
  EXPECT_DOUBLE_EQ(apply_to_logit(softcap{2.0f} | (causal{} | sink), row{}, 0.0, 3.0), cap + bias);
  EXPECT_DOUBLE_EQ(apply_to_logit(identity{} | softcap{2.0f} | sink, row{}, 0.0, 3.0), cap + bias);
  EXPECT_DOUBLE_EQ(apply_to_logit(doubled{} | softcap{2.0f} | sink, row{}, 0.0, 3.0),
                   2.0 * std::tanh(6.0 / 2.0) + bias);
  EXPECT_DOUBLE_EQ(apply_to_logit(softcap{2.0f} | doubled{} | sink, row{}, 0.0, 3.0),
                   2.0 * cap + bias);
}

// (softcap | bias) | bias: the left part is no bias, and the right bias must be added once.
TEST(composition, adds_each_bias_once) {
  const auto m = (softcap{2.0f} | initial_token{5.0f}) | token_span{{0, 1}, head_gammas{3.0f}};
  EXPECT_DOUBLE_EQ(apply_to_logit(m, row{}, 0.0, 3.0), 2.0 * std::tanh(1.5) + std::log(15.0));
  EXPECT_DOUBLE_EQ(m.transform_logit(row{}, 0.0, 3.0), 2.0 * std::tanh(1.5) + std::log(15.0));
  EXPECT_DOUBLE_EQ(apply_to_logit(m, row{}, 1.0, 3.0), 2.0 * std::tanh(1.5));
}

TEST(composition, with_identity_changes_nothing) {
  const auto sink = initial_token{2.0f}.at(list_view(positions));
  expect_same(identity{} | sink, sink | identity{});
  const auto composed = identity{} | sink;
  EXPECT_EQ(composed.effect({}, {3, 4}, {3, 4}), tile_effect::none);
  EXPECT_EQ(changed_keys(composed, row{0, 0, 5}).size(), 1);
}

// Without `support` and `visible` a modifier is taken to change and to see all keys.
TEST(custom_modifier, without_optional_members_may_change_everything) {
  EXPECT_TRUE(changed_keys(ramp{}, row{}).contains(range{0, index_t{1} << 60}));
  EXPECT_TRUE(visible_keys(ramp{}, row{}).contains(range{0, index_t{1} << 60}));
  EXPECT_TRUE(changed_keys(causal{} | ramp{}, row{}).contains(range{0, index_t{1} << 60}));
}

}  // namespace
