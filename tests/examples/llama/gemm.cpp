// SPDX-License-Identifier: Apache-2.0
// The products against a naive one in double; on one instruction set a row's bits do not depend on
// the other rows.
#include "llama/gemm.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <tuple>
#include <vector>

#include "llama/elementwise.hpp"
#include "zerotune/core/thread_pool.hpp"

namespace {

using llama::gemm_kind;
using llama::gemm_output;
using llama::linear;
using llama::matrix;

matrix random_matrix(std::int64_t rows, std::int64_t columns, unsigned seed) {
  std::mt19937 generator(seed);
  matrix m(rows, columns);
  for (float& value : m.values()) value = static_cast<float>(generator() >> 8) * 0x1p-23f - 1.0f;
  return m;
}

class Gemm : public testing::TestWithParam<gemm_kind> {
 protected:
  void SetUp() override {
    if (!llama::is_available(GetParam()))
      GTEST_SKIP() << "this build or CPU has not got " << name_of(GetParam());
  }
  // Relative to the sum of the magnitudes: half a unit of float per addition, or two roundings to
  // eight bits a product.
  double tolerance() const { return GetParam() == gemm_kind::onednn_bf16 ? 8e-3 : 1e-6; }
};

TEST_P(Gemm, IsTheNaiveProduct) {
  for (const auto& [rows, inputs, outputs] : {std::tuple{1, 1, 1},
                                              {3, 7, 5},
                                              {8, 48, 48},
                                              {9, 33, 49},
                                              {64, 100, 191},
                                              {130, 64, 193},
                                              {257, 20, 385}}) {
    const matrix x = random_matrix(rows, inputs, 1), w = random_matrix(outputs, inputs, 2);
    const matrix bias = random_matrix(1, outputs, 3);
    matrix y = random_matrix(rows, outputs, 4);
    const matrix before = random_matrix(rows, outputs, 4);
    const linear plain(GetParam(), w), biased(GetParam(), w, bias.values());
    for (const bool add : {false, true}) {
      if (add)
        biased(x.data(), y.data(), rows, {}, gemm_output::add);
      else
        plain(x.data(), y.data(), rows, {});
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < outputs; ++j) {
          double expected = 0.0, magnitude = 1.0;
          for (std::int64_t k = 0; k < inputs; ++k) {
            const double product =
                static_cast<double>(x.row(i).data()[k]) * static_cast<double>(w.row(j).data()[k]);
            expected += product;
            magnitude += std::abs(product);
          }
          if (add) expected += static_cast<double>(before.row(i).data()[j] + bias.data()[j]);
          ASSERT_NEAR(static_cast<double>(y.row(i).data()[j]), expected, tolerance() * magnitude)
              << rows << 'x' << inputs << 'x' << outputs << " at " << i << ", " << j;
        }
      std::ranges::copy(before.values(), y.data());
    }
  }
}

TEST_P(Gemm, TransposedIsTheNaiveProduct) {
  for (const auto& [rows, inputs, outputs] : {std::tuple{1, 1, 1},
                                              {3, 7, 5},
                                              {8, 48, 48},
                                              {9, 33, 49},
                                              {17, 100, 191},
                                              {40, 97, 400},
                                              {130, 64, 193},
                                              {301, 21, 385},
                                              {2, 30, 5000}}) {
    const matrix y = random_matrix(rows, outputs, 1), w = random_matrix(outputs, inputs, 2);
    const matrix before = random_matrix(rows, inputs, 4);
    const linear layer(GetParam(), w, random_matrix(1, outputs, 3).values());
    for (const gemm_output output : {gemm_output::store, gemm_output::add}) {
      matrix x = random_matrix(rows, inputs, 4);
      layer.backward(y.data(), x.data(), rows, {}, output);
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < inputs; ++j) {
          double expected =
              output == gemm_output::add ? static_cast<double>(before.row(i).data()[j]) : 0.0;
          double magnitude = 1.0;
          for (std::int64_t k = 0; k < outputs; ++k) {
            const double product =
                static_cast<double>(y.row(i).data()[k]) * static_cast<double>(w.row(k).data()[j]);
            expected += product;
            magnitude += std::abs(product);
          }
          ASSERT_NEAR(static_cast<double>(x.row(i).data()[j]), expected, tolerance() * magnitude)
              << rows << 'x' << inputs << 'x' << outputs << " at " << i << ", " << j;
        }
    }
  }
}

TEST_P(Gemm, ATransposedRowDoesNotDependOnTheOthers) {
  for (const auto& [inputs, outputs] : {std::pair{576, 960},
                                        {1536, 576},
                                        {576, 3072},
                                        {77, 131},
                                        {77, 262},
                                        {131, 77},
                                        {77, 211},
                                        {120, 77},
                                        {77, 200}}) {
    const matrix y = random_matrix(300, outputs, 5), w = random_matrix(outputs, inputs, 6);
    const linear layer(GetParam(), w);
    matrix all(300, inputs);
    layer.backward(y.data(), all.data(), 300, {});
    for (const int rows : {1, 2, 3, 7, 8, 31, 57, 64, 100, 129, 250, 255}) {
      const int first = 300 - rows;
      matrix some(rows, inputs);
      layer.backward(y.row(first).data(), some.data(), rows, {});
      EXPECT_TRUE(std::ranges::equal(some.values(), all.values().last(some.values().size())))
          << rows << " rows of " << outputs << " by " << inputs;
    }
  }
}

TEST_P(Gemm, ARowDoesNotDependOnTheOthers) {
  for (const auto& [inputs, outputs] : {std::pair{576, 960}, {1536, 576}, {77, 131}}) {
    const matrix x = random_matrix(300, inputs, 5), w = random_matrix(outputs, inputs, 6);
    const linear layer(GetParam(), w);
    matrix all(300, outputs);
    layer(x.data(), all.data(), 300, {});
    for (const int rows : {1, 2, 3, 7, 8, 31, 57, 64, 100, 129, 250, 255}) {
      const int first = 300 - rows;
      matrix some(rows, outputs);
      layer(x.row(first).data(), some.data(), rows, {});
      EXPECT_TRUE(std::ranges::equal(some.values(), all.values().last(some.values().size())))
          << rows << " rows of " << inputs << " by " << outputs;
    }
  }
}

TEST_P(Gemm, GatedIsTheProductAndThenTheGate) {
  for (const auto& [inputs, outputs] : {std::pair{576, 3072}, {100, 400}, {33, 38}, {20, 2}})
    for (const int parts : {1, 2}) {
      const matrix w = random_matrix(outputs, inputs, 6);
      const linear layer(GetParam(), w, {}, parts);
      const auto half = static_cast<std::size_t>(outputs / 2);
      for (const int rows : {1, 5, 64, 250, 260, 300}) {
        const matrix x = random_matrix(rows, inputs, 5);
        matrix product(rows, outputs), expected(rows, outputs / 2), gated(rows, outputs / 2);
        layer(x.data(), product.data(), rows, {});
        for (int i = 0; i < rows; ++i) {
          const std::span<const float> row = product.row(i);
          llama::swiglu(row.first(half), row.last(half), expected.row(i));
        }
        layer.gated(x.data(), gated.data(), rows, {});
        EXPECT_TRUE(std::ranges::equal(gated.values(), expected.values()))
            << rows << 'x' << inputs << 'x' << outputs << ", " << parts << " parts";
        zerotune::thread_pool pool(3);
        std::ranges::fill(gated.values(), -1.0f);
        layer.gated(x.data(), gated.data(), rows, pool);
        EXPECT_TRUE(std::ranges::equal(gated.values(), expected.values())) << "3 threads";
      }
    }
}

TEST_P(Gemm, PartsChangeNothing) {
  const matrix x = random_matrix(70, 300, 5), w = random_matrix(1000, 300, 6);
  matrix whole(70, 1000), cut(70, 1000);
  linear(GetParam(), w)(x.data(), whole.data(), 70, {});
  for (const int parts : {2, 5, 1000}) {
    const linear layer(GetParam(), w, {}, parts);
    layer(x.data(), cut.data(), 70, {});
    EXPECT_TRUE(std::ranges::equal(whole.values(), cut.values())) << parts;
    matrix d_whole(70, 300), d_cut(70, 300);
    linear(GetParam(), w).backward(whole.data(), d_whole.data(), 70, {});
    layer.backward(whole.data(), d_cut.data(), 70, {});
    EXPECT_TRUE(std::ranges::equal(d_whole.values(), d_cut.values())) << parts;
  }
}

TEST_P(Gemm, RefusesUnequalParts) {
  for (const int parts : {-1, 0, 3, 20})
    EXPECT_THROW(llama::pack(GetParam(), random_matrix(10, 4, 1), parts), std::invalid_argument)
        << parts;
}

TEST_P(Gemm, ThreadsChangeNothing) {
  const matrix x = random_matrix(70, 300, 5), w = random_matrix(1000, 300, 6);
  const linear layer(GetParam(), w);
  matrix serial(70, 1000), parallel(70, 1000);
  layer(x.data(), serial.data(), 70, {});
  for (const int threads : {2, 3, 7}) {
    zerotune::thread_pool pool(threads);
    layer(x.data(), parallel.data(), 70, pool);
    EXPECT_TRUE(std::ranges::equal(serial.values(), parallel.values())) << threads;
  }
}

TEST_P(Gemm, ThreadsChangeNothingOfATransposedProduct) {
  const matrix y = random_matrix(170, 1000, 5), w = random_matrix(1000, 300, 6);
  const linear layer(GetParam(), w);
  matrix serial(170, 300), parallel(170, 300);
  layer.backward(y.data(), serial.data(), 170, {});
  for (const int threads : {2, 3, 7}) {
    zerotune::thread_pool pool(threads);
    layer.backward(y.data(), parallel.data(), 170, pool);
    EXPECT_TRUE(std::ranges::equal(serial.values(), parallel.values())) << threads;
  }
}

TEST_P(Gemm, NoRowsIsNothing) {
  const linear layer(GetParam(), random_matrix(10, 10, 1));
  layer(nullptr, nullptr, 0, {});
  layer.backward(nullptr, nullptr, 0, {});
}

INSTANTIATE_TEST_SUITE_P(Kinds, Gemm,
                         testing::Values(gemm_kind::eigen, gemm_kind::onednn,
                                         gemm_kind::onednn_bf16));

TEST(PackedMatrix, GivesItsRowsBack) {
  const matrix w = random_matrix(101, 37, 7);
  const auto packed = llama::pack(gemm_kind::eigen, w);
  ASSERT_TRUE(packed->can_unpack());
  std::vector<float> row(37);
  for (const std::int64_t i : {0, 47, 48, 100}) {
    packed->unpack_row(i, row);
    EXPECT_TRUE(std::ranges::equal(row, w.row(i)));
  }
}

TEST(Linear, RefusesABiasOfAnotherLength) {
  const std::vector<float> bias(9);
  EXPECT_THROW(linear(gemm_kind::eigen, random_matrix(10, 10, 1), bias), std::invalid_argument);
}

}  // namespace
