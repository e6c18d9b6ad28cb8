// SPDX-License-Identifier: Apache-2.0
// A scene: shape, positions and modifiers of an attention in plain numbers, which both the oracle
// and the library are built from.
#pragma once

#include <cmath>
#include <vector>

#include "oracle/oracle.hpp"
#include "support/tensor.hpp"
#include "zerotune/policy/alibi.hpp"
#include "zerotune/policy/compose.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"
#include "zerotune/policy/softcap.hpp"
#include "zerotune/policy/token_span.hpp"

namespace test {

struct scene {
  index_t batch = 1, num_heads = 1, num_kv_heads = 1, q_len = 1, kv_len = 1;
  index_t head_dim = 8, value_dim = 8;
  double scale = 0;  ///< 0: 1/sqrt(head_dim)
  bool causal = true;
  index_t window = index_t{1} << 40;
  std::vector<float> gammas{};       ///< [num_heads]; empty: 1
  std::vector<index_t> positions{};  ///< [batch] of the initial tokens; empty: 0
  std::vector<float> slopes{};       ///< [num_heads] of ALiBi; empty: 0
  zerotune::range span{};            ///< keys whose weight is multiplied by span_gamma
  float span_gamma = 1;
  double softcap = 0;
  std::vector<index_t> kv_lengths{}, q_starts{};

  /// Fills the empty lists, so that modifiers can view them.
  scene& complete() {
    if (gammas.empty()) gammas.assign(static_cast<std::size_t>(num_heads), 1.0f);
    if (slopes.empty()) slopes.assign(static_cast<std::size_t>(num_heads), 0.0f);
    if (scale == 0) scale = 1 / std::sqrt(static_cast<double>(head_dim));
    return *this;
  }
  index_t initial(index_t b) const {
    return positions.empty() ? 0 : positions[static_cast<std::size_t>(b)];
  }

  zerotune::initial_token sink() const {
    const zerotune::initial_token all{list_view(gammas)};
    return positions.empty() ? all : all.at(list_view(positions));
  }
  /// What a host usually has.
  auto usual() const { return zerotune::causal{} | sink(); }
  /// Every bias at once.
  auto biases() const {
    return zerotune::causal{} | zerotune::sliding_window{window} |
           zerotune::alibi{list_view(slopes)} |
           zerotune::token_span{span, zerotune::head_gammas{span_gamma}} | sink();
  }
  /// And a transform before them.
  auto everything() const {
    return zerotune::softcap{static_cast<float>(softcap)} | zerotune::causal{} |
           zerotune::alibi{list_view(slopes)} | sink();
  }

  template <class Options>
  Options options() const {
    Options o;
    if (!kv_lengths.empty()) o.kv_lengths = list_view(kv_lengths);
    if (!q_starts.empty()) o.q_starts = list_view(q_starts);
    return o;
  }

  oracle::rules rules() const {
    const scene s = *this;
    oracle::rules r;
    r.softcap = softcap;
    r.bias = [s](oracle::position p) {
      return s.slopes.empty() ? 0.0
                              : -static_cast<double>(s.slopes[static_cast<std::size_t>(p.head)]) *
                                    static_cast<double>(p.q_pos - p.kv_pos);
    };
    r.factor = [s](oracle::position p) {
      double factor = s.span.contains(p.kv_pos) ? static_cast<double>(s.span_gamma) : 1.0;
      if (p.kv_pos == s.initial(p.batch) && !s.gammas.empty())
        factor *= static_cast<double>(s.gammas[static_cast<std::size_t>(p.head)]);
      return factor;
    };
    r.hidden = [s](oracle::position p) {
      return (s.causal && p.kv_pos > p.q_pos) || p.kv_pos <= p.q_pos - s.window ||
             p.kv_pos < s.initial(p.batch);
    };
    return r;
  }
  oracle::problem problem(const std::vector<double>& q, const std::vector<double>& k,
                          const std::vector<double>& v) const {
    return {batch, num_heads, num_kv_heads, q_len,   kv_len,     head_dim, value_dim, q,
            k,     v,         scale,        rules(), kv_lengths, q_starts};
  }
};

/// Tensors of a scene, random from a seed.
template <class T>
struct inputs {
  tensor<T> q, k, v;
  inputs(const scene& s, std::uint64_t seed, layout order = layout::contiguous, double spread = 1.5)
      : q({s.batch, s.num_heads, s.q_len, s.head_dim}, order),
        k({s.batch, s.num_kv_heads, s.kv_len, s.head_dim}, order),
        v({s.batch, s.num_kv_heads, s.kv_len, s.value_dim}, order) {
    q.randomise(seed, -spread, spread);
    k.randomise(seed + 1, -spread, spread);
    v.randomise(seed + 2);
  }
  oracle::problem problem(const scene& s) const {
    return s.problem(q.dense(), k.dense(), v.dense());
  }
};

}  // namespace test
