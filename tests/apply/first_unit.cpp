// SPDX-License-Identifier: Apache-2.0
// Two translation units with every header link, share one error handler and agree to the bit.
#include <gtest/gtest.h>

#include <zerotune/zerotune.hpp>

#include "apply/second_unit.hpp"
#include "support/tensor.hpp"

namespace {

TEST(two_translation_units, agree_to_the_bit) {
  std::vector<float> q(12, 0.5f), k(20, 0.25f), v(20), out(12);
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i);
  const zerotune::tensor_view<float, 4> queries(q.data(), {1, 1, 3, 4}),
      keys(k.data(), {1, 1, 5, 4}), values(v.data(), {1, 1, 5, 4}),
      result(out.data(), {1, 1, 3, 4});
  zerotune::attention(queries, keys, values, result,
                      zerotune::causal{} | zerotune::initial_token{3.0f});
  EXPECT_TRUE(test::same_bits(out, attention_of_the_second_unit()));
}

TEST(two_translation_units, share_one_error_handler) {
  const zerotune::error_handler mine = [](const char*) {};
  const zerotune::error_handler original = zerotune::set_error_handler(mine);
  EXPECT_EQ(handler_of_the_second_unit(), reinterpret_cast<const void*>(mine));
  zerotune::set_error_handler(original);
}

}  // namespace
