// SPDX-License-Identifier: Apache-2.0
// Decode's softmax and products of four queries by four keys to a vector: the bits of the general
// operations, maxima raised or left, and NaN in its own row alone.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "zerotune/kernel/simd/decode.hpp"

namespace zt = zerotune;
using zt::index_t;

namespace {

double number(std::uint64_t& state) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<double>(static_cast<std::int64_t>(state >> 11)) / 0x1p52 - 1.0;
}

constexpr index_t queries = 4, keys = zt::impl::decode_keys, lanes = 16;

template <class Query, class T>
struct problem {
  index_t dim, row;
  std::vector<Query> q;
  std::vector<T> k, v;
  std::vector<const T*> k_rows, v_rows;

  explicit problem(index_t columns) : dim(columns), row(zt::impl::padded_dim(columns)) {
    std::uint64_t state = 7;
    for (index_t i = 0; i < queries * dim; ++i)
      q.push_back(static_cast<Query>(static_cast<float>(2 * number(state))));
    for (index_t i = 0; i < keys * dim; ++i) {
      k.push_back(static_cast<T>(static_cast<float>(number(state))));
      v.push_back(static_cast<T>(static_cast<float>(number(state))));
    }
    for (index_t j = 0; j < keys; ++j) {
      k_rows.push_back(k.data() + j * dim);
      v_rows.push_back(v.data() + j * dim);
    }
  }
};

struct alignas(64) result {
  float maximum[queries], totals[queries][lanes] = {}, poison[queries][lanes] = {};
  alignas(64) float out[queries * 320] = {};
};

template <class Ops, class Query, class T>
result in_general(const problem<Query, T>& p, const float* packed, const float* former) {
  result r;
  alignas(64) static float scores[queries * keys];
  Ops::scores(packed, p.row, queries, p.k_rows.data(), 1, keys, p.dim, 0.5f, scores, {});
  for (index_t i = 0; i < queries; ++i) {
    float* const own = scores + i * keys;
    const float greatest = Ops::raise_maximum(own, keys, former[i], r.poison[i]);
    r.maximum[i] = greatest > former[i] + Ops::raise_beyond ? greatest : former[i];
    Ops::weigh(own, keys, r.maximum[i], r.totals[i]);
  }
  Ops::accumulate(scores, queries, p.v_rows.data(), 1, keys, p.dim, r.out, p.row, {});
  return r;
}

template <class Ops, class Query, class T>
result in_tiles(const problem<Query, T>& p, const float* packed, const float* former) {
  result r;
  alignas(64) typename Ops::weight weights[queries * keys];
  std::memcpy(r.maximum, former, sizeof r.maximum);
  Ops::weigh_tile(packed, p.row, p.k_rows.data(), p.dim, 0.5f, r.maximum, r.totals, r.poison,
                  weights, {});
  Ops::add_tile(weights, p.v_rows.data(), p.dim, r.out, p.row, {});
  return r;
}

template <class Ops, class Query, class T>
void expect_the_same_bits() {
  if constexpr (Ops::tile_rows == 0) {
    GTEST_SKIP() << "no tiles without AVX-512";
  } else {
    const float lowest = std::numeric_limits<float>::lowest();
    for (const index_t dim : {1, 8, 16, 31, 32, 40, 64, 80, 128, 136, 300}) {
      problem<Query, T> p(dim);
      for (const bool with_nan : {false, true}) {
        if (with_nan) p.q[0] = static_cast<Query>(std::numeric_limits<float>::quiet_NaN());
        alignas(64) static float packed[queries * 320];
        for (index_t i = 0; i < queries; ++i)
          Ops::pack(p.q.data() + i * dim, index_t{1}, dim, packed + i * p.row);
        // Nothing seen before, maxima that stay, those that are raised, and both.
        const float formers[][queries] = {{lowest, lowest, lowest, lowest},
                                          {1e3f, 1e3f, 90.0f, 50.0f},
                                          {-1e30f, -50.0f, -9.0f, -5.0f},
                                          {-20.0f, 20.0f, 0.25f, lowest}};
        for (const auto& former : formers) {
          const result a = in_general<Ops>(p, packed, former);
          const result b = in_tiles<Ops>(p, packed, former);
          for (index_t i = 0; i < queries; ++i) {
            float poison[2] = {};
            for (index_t n = 0; n < lanes; ++n)
              poison[0] += a.poison[i][n], poison[1] += b.poison[i][n];
            EXPECT_EQ(std::isnan(poison[0]), with_nan && i == 0);
            EXPECT_EQ(std::isnan(poison[1]), with_nan && i == 0);
            if (std::isnan(poison[0])) continue;
            EXPECT_EQ(a.maximum[i], b.maximum[i]);
            EXPECT_EQ(std::memcmp(a.totals[i], b.totals[i], sizeof a.totals[i]), 0)
                << "dim " << dim << " query " << i;
            EXPECT_EQ(std::memcmp(a.out + i * p.row, b.out + i * p.row,
                                  static_cast<std::size_t>(dim) * sizeof(float)),
                      0)
                << "dim " << dim << " query " << i;
          }
        }
      }
    }
  }
}

using simd = zt::backend::simd<>;

TEST(simd_weigh_rows, float_has_the_bits_of_the_general_way) {
  expect_the_same_bits<zt::impl::decode_ops<simd, float>, float, float>();
}
TEST(simd_weigh_rows, float16_has_the_bits_of_the_general_way) {
  expect_the_same_bits<zt::impl::decode_ops<simd, zt::float16>, float, zt::float16>();
}
TEST(simd_weigh_rows, bfloat16_has_the_bits_of_the_general_way) {
  expect_the_same_bits<zt::impl::decode_ops<simd, zt::bfloat16>, float, zt::bfloat16>();
}
TEST(simd_weigh_rows, pairs_have_the_bits_of_the_general_way) {
  expect_the_same_bits<zt::impl::decode_pair_ops<void>, zt::bfloat16, zt::bfloat16>();
}

}  // namespace
