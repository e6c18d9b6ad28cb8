// SPDX-License-Identifier: Apache-2.0
// Walks the rows of a scene: which keys a row sees, and by what each weight is multiplied.
#pragma once

#include <vector>

#include "support/scene.hpp"

namespace test {

/// One row of a scene in the eyes of the oracle.
struct scene_row {
  index_t batch, head, q, q_pos;
  std::vector<bool> visible;    ///< [kv_len]
  std::vector<double> factors;  ///< [kv_len]; 1 where hidden
  std::vector<double> biases;   ///< [kv_len]
  bool only_excluded = false;   ///< every visible factor is 0: the row stays as it was

  bool sees_any() const {
    for (const bool v : visible)
      if (v) return true;
    return false;
  }
};

template <class Body>
void for_each_row(const scene& s, const Body& body) {
  const oracle::rules rules = s.rules();
  oracle::problem p;
  p.q_len = s.q_len, p.kv_len = s.kv_len, p.kv_lengths = s.kv_lengths, p.q_starts = s.q_starts;
  for (index_t b = 0; b < s.batch; ++b)
    for (index_t h = 0; h < s.num_heads; ++h)
      for (index_t i = 0; i < s.q_len; ++i) {
        const auto keys = static_cast<std::size_t>(s.kv_len);
        scene_row r{b,
                    h,
                    i,
                    p.start(b) + i,
                    std::vector<bool>(keys, false),
                    std::vector<double>(keys, 1.0),
                    std::vector<double>(keys, 0.0)};
        bool any_kept = false;
        for (index_t j = 0; j < p.length(b); ++j) {
          const oracle::position at{b, h, r.q_pos, j};
          if (rules.hidden(at)) continue;
          const auto key = static_cast<std::size_t>(j);
          r.visible[key] = true;
          r.factors[key] = rules.factor(at);
          r.biases[key] = rules.bias(at);
          any_kept |= r.factors[key] > 0;
        }
        r.only_excluded = r.sees_any() && !any_kept;
        body(r);
      }
}

/// Scenes that between them have groups, padding, chunks, unequal lengths, zeros and ones.
inline std::vector<scene> typical_scenes() {
  std::vector<scene> scenes;
  for (const index_t length : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 67, 257}) {
    scene s{.num_heads = 2, .num_kv_heads = 1, .q_len = std::min<index_t>(length, 5)};
    s.kv_len = length;
    s.gammas = {3.0f, 0.25f};
    scenes.push_back(s.complete());
  }
  scene padded{.batch = 3, .num_heads = 4, .num_kv_heads = 2, .q_len = 6, .kv_len = 19};
  padded.gammas = {2.0f, 0.0f, 1.0f, 0.125f};
  padded.positions = {5, 0, 13};
  scenes.push_back(padded.complete());
  scene unequal{.batch = 4, .num_heads = 2, .num_kv_heads = 2, .q_len = 5, .kv_len = 23};
  unequal.kv_lengths = {23, 7, 0, 12};
  unequal.q_starts = {18, 2, 0, 3};
  unequal.positions = {0, 4, 1, 2};
  unequal.gammas = {7.0f, 0.0f};
  scenes.push_back(unequal.complete());
  scene grouped{.num_heads = 24, .num_kv_heads = 3, .q_len = 2, .kv_len = 5};
  for (index_t h = 0; h < 24; ++h) grouped.gammas.push_back(0.25f * static_cast<float>(h));
  scenes.push_back(grouped.complete());
  return scenes;
}

/// And one with every bias at once.
inline scene scene_of_all_biases() {
  scene s{.batch = 2, .num_heads = 4, .num_kv_heads = 2, .q_len = 13, .kv_len = 37};
  s.gammas = {2.0f, 0.0f, 1.0f, 0.125f};
  s.slopes = {0.5f, 0.25f, 0.0f, 0.0625f};
  s.span = {5, 21}, s.span_gamma = 0.3f;
  s.window = 19;
  s.positions = {3, 0};
  return s.complete();
}

}  // namespace test
