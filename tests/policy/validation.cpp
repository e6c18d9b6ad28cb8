// SPDX-License-Identifier: Apache-2.0
// Which parameters modifiers refuse, and what the message names.
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "support/errors.hpp"
#include "support/tensor.hpp"
#include "zerotune/policy/alibi.hpp"
#include "zerotune/policy/compose.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"
#include "zerotune/policy/softcap.hpp"
#include "zerotune/policy/token_span.hpp"

namespace {

using namespace zerotune;
using test::list_view;
using test::message_of;

constexpr attention_shape shape{2, 3, 4, 5};
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();

template <class M>
std::string refusal(const M& m) {
  return message_of([&] { check_modifier(m, "some_function", shape); });
}

TEST(lists, without_memory_or_off_their_alignment_are_refused) {
  std::vector<float> memory(8, 1.0f);
  const auto off = [&](auto* of) {
    using type = std::remove_pointer_t<decltype(of)>;
    return reinterpret_cast<type*>(reinterpret_cast<std::uintptr_t>(memory.data()) + 1);
  };
  const float* const none = nullptr;
  const float* const shifted = off(static_cast<const float*>(nullptr));
  for (const float* data : {none, shifted}) {
    const tensor_view<const float, 1> list(data, {3});
    const char* const what = data ? "alignment" : "null";
    EXPECT_TRUE(test::mentions(refusal(initial_token{list}), {"gamma data", what}));
    EXPECT_TRUE(test::mentions(refusal(alibi{list}), {"alibi slopes data", what}));
  }
  const tensor_view<const index_t, 1> positions(off(static_cast<const index_t*>(nullptr)), {2});
  EXPECT_TRUE(test::mentions(refusal(initial_token{2.0f}.at(positions)),
                             {"initial token positions data", "alignment"}));
}

TEST(positions, any_will_do_where_there_are_no_keys) {
  const std::vector<index_t> places{0, 7};
  const auto sink = initial_token{2.0f}.at(list_view(places));
  EXPECT_EQ(message_of([&] {
              check_modifier(sink, "some_function", attention_shape{2, 3, 4, 0});
            }),
            "");
}

TEST(gamma, below_zero_nan_and_infinite_is_refused) {
  struct {
    float gamma;
    const char* got;
  } const cases[] = {{-1.0f, "-1"},       {-1e-45f, "-1.4"},  {nan_value, "NaN"},
                     {-nan_value, "NaN"}, {infinity, "+inf"}, {-infinity, "-inf"}};
  for (const auto& c : cases) {
    const std::string message = refusal(initial_token{c.gamma});
    EXPECT_TRUE(test::mentions(message, {"some_function", "initial_token gamma[0]", c.got}))
        << message;
    EXPECT_TRUE(test::mentions(refusal(token_span{{0, 1}, head_gammas{c.gamma}}),
                               {"some_function", "token_span gamma[0]", c.got}));
    const std::vector<float> gammas{1.0f, 2.0f, c.gamma};
    EXPECT_TRUE(test::mentions(refusal(initial_token{list_view(gammas)}), {"gamma[2]", c.got}));
    EXPECT_TRUE(test::mentions(refusal(causal{} | initial_token{c.gamma}), {"gamma[0]"}));
    EXPECT_TRUE(test::mentions(refusal(initial_token{c.gamma} | causal{}), {"gamma[0]"}));
  }
}

TEST(gamma, zero_negative_zero_subnormal_and_huge_is_accepted) {
  for (const float gamma : {0.0f, -0.0f, 1e-45f, 1e38f, std::numeric_limits<float>::max()})
    EXPECT_EQ(refusal(initial_token{gamma}), "") << gamma;
}

TEST(gamma, per_head_needs_one_per_head) {
  for (const std::size_t count : {0u, 1u, 2u, 4u}) {
    const std::vector<float> gammas(count, 1.0f);
    EXPECT_TRUE(test::mentions(
        refusal(initial_token{
            tensor_view<const float, 1>(gammas.data(), {static_cast<index_t>(count)})}),
        {"initial_token", "num_heads", "expected 3", "got " + std::to_string(count)}));
  }
}

TEST(gamma, views_may_have_strides) {
  const std::vector<float> gammas{1.0f, -7.0f, 2.0f, -7.0f, 3.0f};
  const initial_token sink{tensor_view<const float, 1>(gammas.data(), {3}, {2})};
  EXPECT_EQ(refusal(sink), "");
  EXPECT_EQ(sink.gamma(2), 3.0f);
}

TEST(positions, must_be_one_per_sequence_within_the_keys) {
  const std::vector<index_t> right{0, 4}, beyond{0, 5}, negative{-1, 0}, one{0};
  const initial_token sink{2.0f};
  EXPECT_EQ(refusal(sink.at(list_view(right))), "");
  EXPECT_TRUE(
      test::mentions(refusal(sink.at(list_view(beyond))), {"positions[1]", "[0, 5)", "got 5"}));
  EXPECT_TRUE(test::mentions(refusal(sink.at(list_view(negative))), {"positions[0]", "got -1"}));
  EXPECT_TRUE(test::mentions(refusal(sink.at(list_view(one))), {"batch", "expected 2", "got 1"}));
}

TEST(sliding_window, of_no_keys_is_refused) {
  for (const index_t size : {index_t{0}, index_t{-1}, std::numeric_limits<index_t>::max(),
                             std::numeric_limits<index_t>::min()})
    EXPECT_TRUE(test::mentions(refusal(sliding_window{size}),
                               {"some_function", "sliding_window", std::to_string(size)}));
  EXPECT_EQ(refusal(sliding_window{1}), "");
}

TEST(softcap, must_be_positive_and_finite) {
  for (const float cap : {0.0f, -1.0f, infinity, nan_value})
    EXPECT_TRUE(test::mentions(refusal(softcap{cap}), {"some_function", "softcap"})) << cap;
  EXPECT_TRUE(test::mentions(refusal(softcap{} | causal{}), {"softcap"}));
  EXPECT_EQ(refusal(softcap{30.0f}), "");
}

TEST(alibi, needs_a_finite_slope_per_head) {
  const std::vector<float> two{1, 2}, poisoned{1, nan_value, 2}, right{1, 2, 3};
  EXPECT_TRUE(test::mentions(refusal(alibi{list_view(two)}), {"alibi", "expected 3", "got 2"}));
  EXPECT_TRUE(test::mentions(refusal(alibi{list_view(poisoned)}), {"alibi", "slopes[1]"}));
  EXPECT_TRUE(test::mentions(refusal(alibi{}), {"alibi", "got 0"}));
  EXPECT_EQ(refusal(alibi{list_view(right)}), "");
}

}  // namespace
