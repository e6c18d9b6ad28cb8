// SPDX-License-Identifier: Apache-2.0
// Random scenes for properties: groups, padding, chunks, unequal lengths, zeros and ones.
#pragma once

#include "support/scene.hpp"

namespace test {

inline scene random_scene(std::uint64_t seed) {
  random_numbers numbers(seed);
  scene s;
  s.batch = numbers.integer(1, 3);
  s.num_kv_heads = numbers.integer(1, 3);
  s.num_heads = s.num_kv_heads * numbers.integer(1, 3);
  s.kv_len = numbers.integer(1, 40);
  s.q_len = numbers.integer(1, s.kv_len);
  s.head_dim = numbers.integer(1, 20);
  s.value_dim = numbers.integer(1, 20);
  const float choices[] = {0.0f, 1e-6f, 0.1f, 0.5f, 1.0f, 1.0f, 2.0f, 10.0f, 1e6f};
  for (index_t h = 0; h < s.num_heads; ++h) s.gammas.push_back(choices[numbers.integer(0, 8)]);
  if (numbers.integer(0, 1))
    for (index_t b = 0; b < s.batch; ++b) s.kv_lengths.push_back(numbers.integer(0, s.kv_len));
  if (numbers.integer(0, 1))
    for (index_t b = 0; b < s.batch; ++b) s.positions.push_back(numbers.integer(0, s.kv_len - 1));
  if (numbers.integer(0, 2) == 0)
    for (index_t b = 0; b < s.batch; ++b)
      s.q_starts.push_back(numbers.integer(0, s.kv_len - s.q_len));
  return s.complete();
}

}  // namespace test
