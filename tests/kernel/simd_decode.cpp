// SPDX-License-Identifier: Apache-2.0
// The pieces of decode on the SIMD back end: tiles of queries by keys and by columns against sums
// in double, bits that do not depend on the tile, reductions, and rows of every kind.
#include "zerotune/kernel/simd/decode.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace zt = zerotune;
using zt::index_t;

namespace {

double number(std::uint64_t& state) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<double>(static_cast<std::int64_t>(state >> 11)) / 0x1p52 - 1.0;
}

template <class T>
class simd_decode : public ::testing::Test {
 public:
  using accumulator = zt::accumulator_t<T>;
  using operations = zt::impl::decode_ops<zt::backend::simd<>, T>;
  using batch_type = typename operations::batch;
};
using cell_types = ::testing::Types<float, double, zt::float16, zt::bfloat16, zt::q8_0>;
TYPED_TEST_SUITE(simd_decode, cell_types);

/// Rows of a cache, each `gap` cells apart from the next one and with `stride` between its cells;
/// and the numbers that they stand for.
template <class T>
struct rows_of {
  static constexpr index_t size = zt::cell_size<T>;
  std::vector<T> memory;
  std::vector<const T*> rows;
  std::vector<double> values;
  index_t dim;

  rows_of(index_t count, index_t columns, index_t stride, std::uint64_t state) : dim(columns) {
    const index_t cells = dim / size, step = cells * stride + 1;
    memory.resize(static_cast<std::size_t>(count * step + 1));
    for (index_t j = 0; j < count; ++j) rows.push_back(memory.data() + j * step + 1);
    for (index_t j = 0; j < count; ++j)
      for (index_t c = 0; c < cells; ++c) {
        T& cell = memory[static_cast<std::size_t>(j * step + 1 + c * stride)];
        if constexpr (std::is_same_v<T, zt::q8_0>) {
          cell.scale = zt::float16(static_cast<float>(0.01 + 0.005 * number(state)));
          for (std::int8_t& value : cell.values) {
            value = static_cast<std::int8_t>(127 * number(state));
            values.push_back(static_cast<double>(static_cast<float>(cell.scale)) * value);
          }
        } else {
          cell = static_cast<T>(static_cast<zt::accumulator_t<T>>(number(state)));
          values.push_back(static_cast<double>(static_cast<zt::accumulator_t<T>>(cell)));
        }
      }
  }
  double at(index_t j, index_t c) const { return values[static_cast<std::size_t>(j * dim + c)]; }
};

template <class Acc>
struct aligned_rows {
  index_t row;
  std::vector<Acc> memory;
  Acc* data;
  aligned_rows(index_t rows, index_t dim)
      : row(zt::impl::padded_dim(dim)),
        memory(static_cast<std::size_t>(rows * row) + 16, Acc(0)),
        data(memory.data()) {
    while (reinterpret_cast<std::uintptr_t>(data) % 64 != 0) ++data;
  }
};

/// Rounding of sums of a few hundred products below 1.
template <class Acc>
constexpr double tolerance = std::is_same_v<Acc, double> ? 1e-13 : 3e-5;

template <class T>
std::vector<index_t> dims() {
  if constexpr (std::is_same_v<T, zt::q8_0>) return {32, 64, 96, 128, 160};
  return {1, 2, 7, 8, 15, 16, 17, 24, 31, 32, 33, 40, 48, 63, 64, 65, 80, 96, 128, 136, 300};
}

constexpr index_t queries = 7, keys = 37;

/// Scores against sums in double, and that they have the same bits in every tile: any number of
/// queries and of keys, from any key on.
template <class Ops, class Acc, class Query, class T>
void expect_scores(index_t dim, index_t stride, index_t query_stride) {
  const rows_of<T> k(keys, dim, stride, 5);
  const rows_of<Query> q(queries, dim, query_stride, 9);
  aligned_rows<Acc> packed(queries, dim), scores(queries, zt::impl::decode_keys);
  for (index_t i = 0; i < queries; ++i)
    Ops::pack(q.rows[static_cast<std::size_t>(i)], query_stride, dim, packed.data + i * packed.row);
  Ops::scores(packed.data, packed.row, queries, k.rows.data(), stride, keys, dim, Acc(0.5),
              scores.data, {});
  for (index_t i = 0; i < queries; ++i)
    for (index_t j = 0; j < keys; ++j) {
      double expected = 0;
      for (index_t c = 0; c < dim; ++c) expected += 0.5 * q.at(i, c) * k.at(j, c);
      ASSERT_NEAR(static_cast<double>(scores.data[i * scores.row + j]), expected, tolerance<Acc>)
          << "query " << i << " key " << j;
    }
  for (index_t rows = 1; rows <= queries; ++rows)
    for (index_t count = 1; count <= keys; count += rows) {
      const index_t first = (keys - count) / 2;
      aligned_rows<Acc> some(rows, zt::impl::decode_keys);
      Ops::scores(packed.data, packed.row, rows, k.rows.data() + first, stride, count, dim,
                  Acc(0.5), some.data, {});
      for (index_t i = 0; i < rows; ++i)
        ASSERT_EQ(std::memcmp(some.data + i * some.row, scores.data + i * scores.row + first,
                              static_cast<std::size_t>(count) * sizeof(Acc)),
                  0)
            << "rows " << rows << " count " << count;
    }
}

/// Weighted sums of values against sums in double, and that they have the bits of a run of
/// `together` keys after the other for each query alone.
template <class Ops, class Acc, class Weight, class T>
void expect_values(index_t dim, index_t stride, index_t together) {
  const rows_of<T> v(keys, dim, stride, 6);
  const rows_of<Weight> w(queries, zt::impl::decode_keys, 1, 3);
  aligned_rows<Acc> weights(queries, zt::impl::decode_keys), out(queries, dim), alone(1, dim);
  for (index_t i = 0; i < queries; ++i)
    for (index_t j = 0; j < zt::impl::decode_keys; ++j)
      weights.data[i * weights.row + j] = static_cast<Acc>(w.at(i, j));
  Ops::accumulate(weights.data, queries, v.rows.data(), stride, keys, dim, out.data, out.row, {});
  for (index_t i = 0; i < queries; ++i) {
    std::fill(alone.memory.begin(), alone.memory.end(), Acc(0));
    for (index_t j = 0; j < keys; j += together)
      Ops::accumulate(weights.data + i * weights.row + j, 1, v.rows.data() + j, stride,
                      std::min(together, keys - j), dim, alone.data, alone.row, {});
    ASSERT_EQ(std::memcmp(alone.data, out.data + i * out.row,
                          static_cast<std::size_t>(dim) * sizeof(Acc)),
              0)
        << "query " << i;
    Ops::unpack(out.data + i * out.row, dim);
    for (index_t c = 0; c < dim; ++c) {
      double expected = 0;
      for (index_t j = 0; j < keys; ++j) expected += w.at(i, j) * v.at(j, c);
      ASSERT_NEAR(static_cast<double>(out.data[i * out.row + c]), expected, tolerance<Acc>)
          << "query " << i << " column " << c;
    }
  }
}

/// Calls check(dim, stride) for every width of rows, dense and with gaps.
template <class T, class Check>
void for_dims_and_strides(index_t gaps, const Check& check) {
  for (const index_t dim : dims<T>())
    for (const index_t stride : {index_t{1}, gaps}) {
      SCOPED_TRACE("dim " + std::to_string(dim) + " stride " + std::to_string(stride));
      check(dim, stride);
    }
}

TYPED_TEST(simd_decode, scores_are_scaled_products_with_the_same_bits_in_every_tile) {
  using acc = typename TestFixture::accumulator;
  for_dims_and_strides<TypeParam>(3, [](index_t dim, index_t stride) {
    expect_scores<typename TestFixture::operations, acc, acc, TypeParam>(dim, stride, 1);
  });
}

TYPED_TEST(simd_decode, values_are_added_with_the_same_bits_in_every_tile) {
  using acc = typename TestFixture::accumulator;
  for_dims_and_strides<TypeParam>(2, [](index_t dim, index_t stride) {
    expect_values<typename TestFixture::operations, acc, acc, TypeParam>(dim, stride, 1);
  });
}

// bfloat16 by pairs, on every architecture: by its dot products or by multiply-adds.
using pair_ops = zt::impl::decode_pair_ops<void>;

TEST(simd_decode_pairs, scores_are_scaled_products_with_the_same_bits_in_every_tile) {
  for_dims_and_strides<zt::bfloat16>(3, [](index_t dim, index_t stride) {
    expect_scores<pair_ops, float, zt::bfloat16, zt::bfloat16>(dim, stride, stride);
  });
}

// Two keys share a product: a run of keys that begins and ends between pairs has the same bits.
// Weights are rounded when they come from scores.
TEST(simd_decode_pairs, values_are_added_with_the_same_bits_in_every_tile) {
  for_dims_and_strides<zt::bfloat16>(2, [](index_t dim, index_t stride) {
    expect_values<pair_ops, float, zt::bfloat16, zt::bfloat16>(dim, stride, 2);
  });
}

TEST(simd_decode_pairs, weights_are_rounded_and_their_sum_is_not) {
  for (const index_t count : {1, 2, 15, 16, 17, 63, 64}) {
    aligned_rows<float> scores(1, zt::impl::decode_keys);
    std::uint64_t state = 5;
    double exact = 0, got = 0;
    std::vector<double> weights;
    for (index_t j = 0; j < count; ++j) {
      scores.data[j] = static_cast<float>(3 * number(state) - 3);
      weights.push_back(std::exp(static_cast<double>(scores.data[j])));
      exact += weights.back();
    }
    float sum[pair_ops::lanes] = {};
    pair_ops::weigh(scores.data, count, 0.0f, sum);
    for (index_t j = 0; j < count; ++j) {
      std::uint32_t bits;
      std::memcpy(&bits, scores.data + j, sizeof bits);
      EXPECT_EQ(bits & 0xffffu, 0u);
      const double weight = weights[static_cast<std::size_t>(j)];
      EXPECT_NEAR(static_cast<double>(scores.data[j]), weight, 0x1p-8 * weight);
    }
    for (const float lane : sum) got += static_cast<double>(lane);
    EXPECT_NEAR(got, exact, 1e-6 * exact);
  }
}

// What lies ahead is asked for and never read: pointers to nothing, as far as they may point.
TYPED_TEST(simd_decode, rows_ahead_change_no_bit_and_are_not_read) {
  using acc = typename TestFixture::accumulator;
  using ops = typename TestFixture::operations;
  constexpr index_t dim = 96;
  const rows_of<TypeParam> k(keys, dim, 1, 5);
  const rows_of<acc> q(queries, dim, 1, 9);
  std::vector<const TypeParam*> rows(static_cast<std::size_t>(keys) + zt::impl::decode_ahead,
                                     nullptr);
  std::copy(k.rows.begin(), k.rows.end(), rows.begin());
  aligned_rows<acc> packed(queries, dim);
  for (index_t i = 0; i < queries; ++i)
    ops::pack(q.rows[static_cast<std::size_t>(i)], index_t{1}, dim, packed.data + i * packed.row);
  aligned_rows<acc> scores(queries, zt::impl::decode_keys), out(queries, dim);
  const auto run = [&](aligned_rows<acc>& s, aligned_rows<acc>& o, index_t asks) {
    const zt::impl::rows_ahead<TypeParam> ahead{
        rows.data(), 2 * dim, asks, {1, 7, zt::impl::decode_keys}};
    ops::scores(packed.data, packed.row, queries, rows.data(), 1, keys, dim, acc(1), s.data, ahead);
    ops::accumulate(s.data, queries, rows.data(), 1, keys, dim, o.data, o.row, ahead);
  };
  run(scores, out, 0);
  for (const index_t asks : {1, 3}) {
    aligned_rows<acc> s(queries, zt::impl::decode_keys), o(queries, dim);
    run(s, o, asks);
    EXPECT_TRUE(s.memory.size() == scores.memory.size() &&
                std::memcmp(s.data, scores.data, sizeof(acc) * keys) == 0);
    EXPECT_EQ(std::memcmp(o.data, out.data, sizeof(acc) * dim), 0);
  }
}

TEST(kv_rows, stand_where_the_table_says) {
  const std::vector<float> cache(3 * 500 + 64 * 8);  // four pages
  const float* const memory = cache.data();
  const std::int32_t table[] = {2, 0, 3, 1};
  for (const index_t page_size : {1, 3, 16})
    for (const bool paged : {false, true}) {
      const zt::impl::kv_rows<float> rows{memory, 8, 1, paged ? table : nullptr, 1, 500, page_size};
      const index_t count = 4 * page_size;
      std::vector<const float*> found(static_cast<std::size_t>(count));
      for (index_t first = 0; first < count; ++first) {
        rows.locate({first, count}, found.data());
        for (index_t j = first; j < count; ++j) {
          const index_t at = paged ? 500 * table[j / page_size] + j % page_size * 8 : 8 * j;
          EXPECT_EQ(found[static_cast<std::size_t>(j - first)], memory + at);
          EXPECT_EQ(rows.at(j), memory + at);
        }
      }
      EXPECT_EQ(rows.rows_of_memory_page(), paged ? std::min<index_t>(page_size, 128) : 128);
    }
}

TYPED_TEST(simd_decode, softmax_of_every_length) {
  using acc = typename TestFixture::accumulator;
  using ops = typename TestFixture::operations;
  for (index_t count = 1; count <= zt::impl::decode_keys; ++count) {
    aligned_rows<acc> scores(1, zt::impl::decode_keys);
    std::uint64_t state = static_cast<std::uint64_t>(count);
    std::vector<double> x;
    for (index_t j = 0; j < zt::impl::decode_keys; ++j) {
      scores.data[j] = j < count ? static_cast<acc>(5 * number(state)) : acc(1e4);
      x.push_back(static_cast<double>(scores.data[j]));
    }
    acc sum[ops::lanes] = {}, poison[ops::lanes] = {};
    const acc maximum = ops::raise_maximum(scores.data, count, acc(-100), poison);
    ops::weigh(scores.data, count, maximum, sum);
    double greatest = -100, expected = 0, got = 0, lanes = 0;
    for (index_t j = 0; j < count; ++j)
      greatest = std::max(greatest, x[static_cast<std::size_t>(j)]);
    for (index_t j = 0; j < count; ++j) {
      const double weight = std::exp(x[static_cast<std::size_t>(j)] - greatest);
      EXPECT_NEAR(static_cast<double>(scores.data[j]), weight, 1e-6);
      expected += weight;
    }
    for (const acc lane : sum) got += static_cast<double>(lane);
    for (const acc lane : poison) lanes += static_cast<double>(lane);
    EXPECT_EQ(static_cast<double>(maximum), greatest) << count;
    EXPECT_NEAR(got, expected, 1e-5) << count;
    EXPECT_EQ(lanes, 0) << count;
  }
}

TYPED_TEST(simd_decode, reductions_of_batches) {
  using acc = typename TestFixture::accumulator;
  using batch = typename TestFixture::batch_type;
  std::uint64_t state = 3;
  batch rows[batch::size];
  acc values[batch::size][batch::size], sums[batch::size];
  for (std::size_t i = 0; i < batch::size; ++i) {
    for (acc& x : values[i]) x = static_cast<acc>(number(state));
    rows[i] = batch::load_unaligned(values[i]);
    acc greatest = values[i][0];
    for (const acc x : values[i]) greatest = std::max(greatest, x);
    EXPECT_EQ(zt::impl::greatest_lane(rows[i]), greatest);
  }
  zt::impl::reduce_rows(rows).store_unaligned(sums);
  for (std::size_t i = 0; i < batch::size; ++i) {
    double expected = 0;
    for (const acc x : values[i]) expected += static_cast<double>(x);
    EXPECT_NEAR(static_cast<double>(sums[i]), expected, 1e-5) << i;
  }
}

/// Parts of 5, 0, 7 and 3 keys of one row of logits.
template <class Acc, class Backend>
void expect_merged() {
  constexpr index_t columns = 19;
  const index_t ends[] = {5, 5, 12, 15};
  for (const double far : {0.0, 300.0, -1e30}) {
    std::uint64_t state = 11;
    double logits[15], values[15][columns];
    for (int j = 0; j < 15; ++j) {
      logits[j] = 3 * number(state) + (j < 5 ? far : 0);  // -1e30: excluded by gamma = 0
      for (double& x : values[j]) x = number(state);
    }
    zt::impl::softmax_part<Acc> states[4];
    std::vector<std::vector<Acc>> outs(4, std::vector<Acc>(32, Acc(0)));
    double greatest = -HUGE_VAL, sum = 0, out[columns] = {};
    for (const double x : logits) greatest = std::max(greatest, x);
    for (int s = 0, j = 0; s < 4; ++s) {
      double m = -HUGE_VAL;
      for (int i = j; i < ends[s]; ++i) m = std::max(m, logits[i]);
      for (; j < ends[s]; ++j) {
        states[s].maximum = static_cast<Acc>(m);
        states[s].count += Acc(1);
        states[s].sum += static_cast<Acc>(std::exp(logits[j] - m));
        for (int c = 0; c < columns; ++c)
          outs[static_cast<std::size_t>(s)][static_cast<std::size_t>(c)] +=
              static_cast<Acc>(std::exp(logits[j] - m) * values[j][c]);
      }
    }
    for (int j = 0; j < 15; ++j) {
      sum += std::exp(logits[j] - greatest);
      for (int c = 0; c < columns; ++c) out[c] += std::exp(logits[j] - greatest) * values[j][c];
    }
    const auto merged = zt::impl::merge_parts<Backend, Acc>(4, 32, [&](index_t s) {
      return std::pair<zt::impl::softmax_part<Acc>, Acc*>(states[s],
                                                          outs[static_cast<std::size_t>(s)].data());
    });
    EXPECT_EQ(merged.count, Acc(15));
    EXPECT_EQ(merged.maximum, static_cast<Acc>(greatest));
    EXPECT_NEAR(static_cast<double>(merged.sum), sum, 1e-5);
    for (int c = 0; c < columns; ++c)
      EXPECT_NEAR(static_cast<double>(outs[0][static_cast<std::size_t>(c)]), out[c], 1e-5);
  }
}

TYPED_TEST(simd_decode, parts_are_merged_as_one) {
  expect_merged<typename TestFixture::accumulator, zt::backend::simd<>>();
  expect_merged<typename TestFixture::accumulator, zt::backend::scalar>();
}

}  // namespace
