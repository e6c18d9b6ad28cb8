// SPDX-License-Identifier: Apache-2.0
// One head of attention by panels, by each kind of products, and its oracle: softmax(modified(scale
// Q K^T)) V in double.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "zerotune/kernel/simd/simd.hpp"

namespace panel_test {

namespace zt = zerotune;
using zt::index_t;

#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
inline constexpr bool finite_math = true;
#else
inline constexpr bool finite_math = false;
#endif

inline double number(std::uint64_t& state) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<double>(static_cast<std::int64_t>(state >> 11)) / 0x1p52 - 1.0;
}

using float_batch = zt::impl::batch<float, void>;

/// The kernel that the back end takes for an element type.
template <class T>
struct usual {
  using type = T;
  using kernel = zt::impl::attention_kernel<zt::backend::simd<>, T, T, T>;
  static bool rounds_weights() { return kernel::kind() != zt::impl::product_kind::numbers; }
};
/// bfloat16 with products of pairs, whatever the back end takes on this machine.
template <class Products>
struct with_products {
  using type = zt::bfloat16;
  using kernel = zt::impl::panel_kernel<void, Products, type, type, type>;
  static bool rounds_weights() { return true; }
};
using pairs = with_products<zt::impl::pair_products<float_batch>>;
using tiles = with_products<zt::impl::tile_products<float_batch, zt::impl::portable_tiles>>;

/// One head: q [queries, head_dim], k [keys, head_dim], v [keys, value_dim].
template <class Kind>
struct head {
  using T = typename Kind::type;
  using acc = zt::accumulator_t<T>;
  head(index_t q_len, index_t kv_len, index_t key_columns, index_t value_columns,
       index_t distance = 1)
      : queries(q_len),
        keys(kv_len),
        head_dim(key_columns),
        value_dim(value_columns),
        stride(distance) {
    std::uint64_t state = 7;
    for (auto* const part : {&q, &k, &v})
      part->resize(static_cast<std::size_t>(std::max(queries, keys) *
                                            (std::max(head_dim, value_dim) * stride + 3)));
    for (auto* const part : {&q, &k, &v})
      for (T& x : *part) x = static_cast<T>(static_cast<acc>(2 * number(state)));
  }
  index_t q_row() const { return head_dim * stride + 1; }
  index_t v_row() const { return value_dim * stride + 2; }

  /// Head 1 of two that read the same inputs, with one of the plans; all tasks share scratch memory
  /// that holds NaN at first.
  template <class Modifier>
  void run(const Modifier& m, const zt::attention_plan& plan = zt::plan_attention()) {
    using kernel = typename Kind::kernel;
    const auto count = static_cast<std::size_t>(queries * value_dim);
    std::vector<T> outs(2 * count);
    std::vector<acc> lses(static_cast<std::size_t>(2 * queries));
    const zt::impl::attention_problem<T, T, T> problem{
        {q.data(), {1, 2, queries, head_dim}, {0, 0, q_row(), stride}},
        {k.data(), {1, 2, keys, head_dim}, {0, 0, q_row(), stride}},
        {v.data(), {1, 2, keys, value_dim}, {0, 0, v_row(), stride}},
        {outs.data(), {1, 2, queries, value_dim}},
        {lses.data(), {1, 2, queries}},
        scale,
        {{1, 2, queries, keys}, {}, {}}};
    const auto tiling = kernel::tiling(problem, plan, 3);
    std::vector<std::byte> memory(static_cast<std::size_t>(tiling.scratch_bytes) + 64,
                                  std::byte{0xff});
    std::byte* scratch = memory.data();
    while (reinterpret_cast<std::uintptr_t>(scratch) % 64 != 0) ++scratch;
    for (index_t task = 0; task < tiling.tasks; ++task)
      kernel::run(problem, m, tiling, task, scratch);
    out.assign(outs.begin() + static_cast<std::ptrdiff_t>(count), outs.end());
    lse.assign(lses.begin() + queries, lses.end());
  }

  /// The oracle. bias(q_pos, j) is -inf where hidden; cap 0 for none.
  template <class Bias>
  void expect(const Bias& bias, double cap, const char* what) const {
    for (index_t i = 0; i < queries; ++i) {
      const index_t q_pos = keys - queries + i;
      std::vector<double> logits(static_cast<std::size_t>(keys));
      double maximum = -HUGE_VAL, sum = 0;
      for (index_t j = 0; j < keys; ++j) {
        double logit = 0;
        for (index_t c = 0; c < head_dim; ++c)
          logit += at(q, i * q_row() + c * stride) * at(k, j * q_row() + c * stride);
        logit *= static_cast<double>(scale);
        if (cap > 0) logit = cap * std::tanh(logit / cap);
        const double b = bias(q_pos, j);
        const bool seen = b > -1e300;
        logits[static_cast<std::size_t>(j)] = seen ? logit + b : -1e300;
        if (seen) maximum = std::max(maximum, logit + b);
      }
      const bool none = maximum < -1e200;
      for (double& x : logits) sum += x = x < -1e200 ? 0.0 : std::exp(x - maximum);
      for (index_t c = 0; c < value_dim; ++c) {
        double expected = 0;
        for (index_t j = 0; j < keys; ++j)
          if (logits[static_cast<std::size_t>(j)] > 0)
            expected += logits[static_cast<std::size_t>(j)] * at(v, j * v_row() + c * stride);
        expected = none ? 0 : expected / sum;
        ASSERT_NEAR(at(out, i * value_dim + c), expected, tolerance)
            << what << " queries " << queries << " keys " << keys << " head_dim " << head_dim
            << " row " << i << " column " << c;
      }
      if (none) {
        // A bit test: -ffast-math takes every comparison with infinity for false.
        const float written = static_cast<float>(lse[static_cast<std::size_t>(i)]);
        ASSERT_EQ(__builtin_bit_cast(std::uint32_t, written), 0xff800000u) << what << " row " << i;
      } else {
        ASSERT_NEAR(lse[static_cast<std::size_t>(i)], maximum + std::log(sum), lse_tolerance)
            << what << " row " << i;
      }
    }
  }
  static double at(const std::vector<T>& x, index_t i) {
    return static_cast<double>(static_cast<acc>(x[static_cast<std::size_t>(i)]));
  }

  /// Rounding of a result below 2 in the storage type; of float sums over some hundred terms. Where
  /// weights are rounded to bfloat16: half a unit in the last place of the greatest, and a series
  /// for exp that is good to 1.1e-4.
  static constexpr double rounding = std::is_same_v<T, double>        ? 1e-12
                                     : std::is_same_v<T, float>       ? 1e-5
                                     : std::is_same_v<T, zt::float16> ? 1e-3
                                                                      : 8e-3;
  double tolerance = rounding + (Kind::rounds_weights() ? 2 * 0x1p-9 : 0);
  double lse_tolerance = std::is_same_v<T, double> ? 1e-12 : Kind::rounds_weights() ? 1.2e-4 : 1e-5;

  index_t queries, keys, head_dim, value_dim, stride;
  acc scale = acc(0.35);
  std::vector<T> q, k, v, out;
  std::vector<acc> lse;
};

inline double causal_bias(index_t q_pos, index_t j) { return j > q_pos ? -HUGE_VAL : 0.0; }

#if defined(ZEROTUNE_TEST_FEW_TYPES)
using kinds = ::testing::Types<usual<float>, usual<zt::bfloat16>, pairs, tiles>;
#else
using kinds = ::testing::Types<usual<float>, usual<double>, usual<zt::float16>, usual<zt::bfloat16>,
                               pairs, tiles>;
#endif

/// Blocks of 32 keys, and a panel a task: every step from block to block and panel to panel.
inline constexpr zt::attention_plan smallest{1, 1};

}  // namespace panel_test
