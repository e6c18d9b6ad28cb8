// SPDX-License-Identifier: Apache-2.0
// The second translation unit: all headers again, and calls of what the first one calls.
#include "apply/second_unit.hpp"

#include <zerotune/zerotune.hpp>

std::vector<float> attention_of_the_second_unit() {
  std::vector<float> q(12, 0.5f), k(20, 0.25f), v(20), out(12);
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i);
  const zerotune::tensor_view<float, 4> queries(q.data(), {1, 1, 3, 4}),
      keys(k.data(), {1, 1, 5, 4}), values(v.data(), {1, 1, 5, 4}),
      result(out.data(), {1, 1, 3, 4});
  zerotune::attention(queries, keys, values, result,
                      zerotune::causal{} | zerotune::initial_token{3.0f});
  return out;
}

const void* handler_of_the_second_unit() {
  const zerotune::error_handler handler = zerotune::set_error_handler(nullptr);
  zerotune::set_error_handler(handler);
  return reinterpret_cast<const void*>(handler);
}
