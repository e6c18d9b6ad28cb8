// SPDX-License-Identifier: Apache-2.0
// What the output form and the gamma gradient must give, from double attention (oracle.hpp).
#pragma once

#include <gtest/gtest.h>

#include "oracle.hpp"
#include "zerotune/kernel/output_row.hpp"

namespace zerotune_test {

template <class T>
std::vector<T> rounded(const std::vector<double>& x) {
  std::vector<T> r;
  for (const double v : x) r.push_back(static_cast<T>(static_cast<float>(v)));
  return r;
}

/// Number of keys beside the initial token that row i of sequence b sees.
inline long seen_others(const problem& p, long b, long i) {
  long others = 0;
  for (long j = 0; j < p.kv_len; ++j) others += p.sees(b, i, j) && j != p.sink(b);
  return others;
}

/// Checks status, output and LSE (if given) of a black box's rows after the correction to p.gamma:
/// `black_box` is attention without gamma, `wanted` with it; errors grow by 1/D. Returns how many
/// rows were corrected.
template <class T>
int check_correction(const problem& p, const result& black_box, const result& wanted, double min_d,
                     double tolerance, const std::vector<std::uint8_t>& status,
                     const std::vector<T>& out, const std::vector<float>& lse) {
  int corrected = 0;
  for (std::size_t r = 0; r < status.size(); ++r) {
    SCOPED_TRACE("row " + std::to_string(r));
    const long i = long(r) % p.q_len, bh = long(r) / p.q_len, b = bh / p.heads;
    const double gamma = p.gamma[size_t(bh % p.heads)],
                 d_of_row = 1 + (gamma - 1) * black_box.mass[r];
    const bool sees_it = p.sees(b, i, p.sink(b)), alone = sees_it && seen_others(p, b, i) == 0;
    const auto s = static_cast<zerotune::row_status>(status[r]);
    if (!sees_it || gamma == 1.0 || (alone && gamma == 0)) {
      EXPECT_EQ(s, zerotune::row_status::unchanged);
    } else if (alone) {  // its LSE alone changes, by log gamma, whatever D is
      EXPECT_EQ(s, zerotune::row_status::corrected);
    } else if (std::abs(d_of_row - min_d) > 1e-4) {
      EXPECT_EQ(
          s, d_of_row < min_d ? zerotune::row_status::amplified : zerotune::row_status::corrected);
    }
    const bool done = s == zerotune::row_status::corrected;
    corrected += done;
    const double growth = std::max(1.0, done && !alone ? 1 / std::max(d_of_row, min_d) : 1.0);
    const result& expected = done ? wanted : black_box;
    for (std::size_t at = r * size_t(p.value_dim); at < (r + 1) * size_t(p.value_dim); ++at)
      EXPECT_NEAR(double(float(out[at])), expected.out[at], tolerance * growth);
    if (!lse.empty()) {
      const double got = double(lse[r]), l = expected.lse[r];
      EXPECT_TRUE(std::isinf(l) ? got == l : std::abs(got - l) <= 1e-5 * growth) << got << " " << l;
    }
    if (::testing::Test::HasFailure()) break;  // one row says enough
  }
  return corrected;
}

/// dL/d log gamma of each [batch, head], sum a'_0 <dL/do', v_0 - o'> over the rows that see more
/// than the initial token; `r` is attention with gamma, `out` its output as stored.
template <class T>
std::vector<double> expected_gradient(const problem& p, const result& r, const std::vector<T>& out,
                                      const std::vector<T>& d_out, const std::vector<T>& v) {
  std::vector<double> gradient(size_t(p.batch * p.heads), 0.0);
  for (std::size_t row = 0; row < r.lse.size(); ++row) {
    const long i = long(row) % p.q_len, bh = long(row) / p.q_len, b = bh / p.heads;
    if (!p.sees(b, i, p.sink(b)) || seen_others(p, b, i) == 0) continue;
    const long g = b * p.kv_heads + bh % p.heads / (p.heads / p.kv_heads);
    double product = 0;
    for (long c = 0; c < p.value_dim; ++c) {
      const std::size_t at = row * size_t(p.value_dim) + size_t(c);
      const double v0 = double(float(v[size_t((g * p.kv_len + p.sink(b)) * p.value_dim + c)]));
      product += double(float(d_out[at])) * (v0 - double(float(out[at])));
    }
    gradient[size_t(bh)] += r.mass[row] * product;
  }
  return gradient;
}

}  // namespace zerotune_test
