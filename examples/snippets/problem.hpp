// SPDX-License-Identifier: Apache-2.0
// A small attention problem that the snippets work on: 4 query heads, 2 key-value heads.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>
#include <zerotune/zerotune.hpp>

struct problem {
  static constexpr zerotune::index_t heads = 4, kv_heads = 2, length = 6, dim = 8;
  std::vector<float> q = wave(heads, 0.37f), k = wave(kv_heads, 0.53f), v = wave(kv_heads, 0.71f);
  std::vector<float> gammas = {1.0f, 2.0f, 0.5f, 3.0f};

  static std::vector<float> wave(zerotune::index_t num_heads, float step) {
    std::vector<float> values(static_cast<std::size_t>(num_heads * length * dim));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = std::sin(step * static_cast<float>(i * i % 97));
    return values;
  }
};

/// The greatest difference of two buffers.
inline float difference(const std::vector<float>& a, const std::vector<float>& b) {
  float greatest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) greatest = std::fmax(greatest, std::fabs(a[i] - b[i]));
  return greatest;
}
