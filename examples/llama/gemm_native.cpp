// SPDX-License-Identifier: Apache-2.0
// The host's own product. W is cut into panels of three vectors of outputs, in each of which the
// outputs of one input lie side by side; a register tile of rows by one panel runs over all inputs
// without interruption, so every element is one chain of fused multiply-adds in rising order.
#include <algorithm>
#include <type_traits>

#include "llama/gemm_kinds.hpp"
#include "llama/vector_math.hpp"

namespace llama {
namespace {

constexpr int panel_vectors = 3;
constexpr std::int64_t panel_columns = panel_vectors * vector_lanes;
// With 32 registers 8 x 3 sums and a row of W fit, with 16 registers 4 x 3.
constexpr int tile_rows = vector_lanes == 16 ? 8 : 4;
// Rows whose inputs stay in the second-level cache while the panels pass.
constexpr std::int64_t row_block = 128;
// What one thread takes at a time.
constexpr std::int64_t panels_per_block = 4;

/// y[Rows, panel_columns] = or += x[Rows, inputs] * panel
template <int Rows>
[[gnu::noinline]] void multiply_tile(const float* x, const float* panel, std::int64_t inputs,
                                     float* y, std::int64_t y_stride, std::int64_t columns,
                                     gemm_output output) {
  vector sum[Rows][panel_vectors] = {};
  for (std::int64_t i = 0; i < inputs; ++i) {
    vector w[panel_vectors];
    for (int v = 0; v < panel_vectors; ++v)
      w[v] = load(panel + i * panel_columns + v * vector_lanes);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const vector a = broadcast(x[r * inputs + i]);
      for (int v = 0; v < panel_vectors; ++v) sum[r][v] += a * w[v];
    }
  }
  for (int r = 0; r < Rows; ++r) {
    float* const row = y + r * y_stride;
    for (int v = 0; v < panel_vectors; ++v) {
      const std::int64_t first = v * vector_lanes;
      const std::int64_t count = std::min<std::int64_t>(columns - first, vector_lanes);
      if (count == vector_lanes)
        store(row + first, output == gemm_output::add ? load(row + first) + sum[r][v] : sum[r][v]);
      else if (count > 0)
        for (std::int64_t j = 0; j < count; ++j)
          row[first + j] =
              output == gemm_output::add ? row[first + j] + sum[r][v][j] : sum[r][v][j];
    }
  }
}

class native_matrix final : public packed_matrix {
 public:
  explicit native_matrix(const matrix& weights)
      : packed_matrix(weights.rows(), weights.columns()),
        panels_((outputs() + panel_columns - 1) / panel_columns, inputs() * panel_columns) {
    for (std::int64_t p = 0; p < panels_.rows(); ++p) {
      float* to = panels_.row(p).data();
      for (std::int64_t i = 0; i < inputs(); ++i)
        for (std::int64_t j = 0; j < panel_columns; ++j) {
          const std::int64_t column = p * panel_columns + j;
          *to++ = column < outputs() ? weights.row(column).data()[i] : 0.0f;
        }
    }
  }

  void multiply(const float* x, float* y, std::int64_t rows, gemm_output output,
                executor_ref threads) const override {
    const std::int64_t blocks = (panels_.rows() + panels_per_block - 1) / panels_per_block;
    threads.parallel_for(blocks, [&](std::int64_t block) {
      const std::int64_t first = block * panels_per_block;
      const std::int64_t last = std::min(panels_.rows(), first + panels_per_block);
      for (std::int64_t begin = 0; begin < rows; begin += row_block)
        for (std::int64_t p = first; p < last; ++p)
          multiply_panel(x, y, begin, std::min(rows, begin + row_block), p, output);
    });
  }

  bool can_unpack() const override { return true; }

  void unpack_row(std::int64_t index, std::span<float> row) const override {
    const float* from = panels_.row(index / panel_columns).data() + index % panel_columns;
    for (std::size_t i = 0; i < row.size(); ++i)
      row[i] = from[static_cast<std::int64_t>(i) * panel_columns];
  }

 private:
  /// Rows [begin, end) by the columns of a panel.
  void multiply_panel(const float* x, float* y, std::int64_t begin, std::int64_t end,
                      std::int64_t p, gemm_output output) const {
    const std::int64_t columns = std::min(panel_columns, outputs() - p * panel_columns);
    std::int64_t i = begin;
    const auto tiles = [&]<int Rows>(std::integral_constant<int, Rows>) {
      for (; i + Rows <= end; i += Rows)
        multiply_tile<Rows>(x + i * inputs(), panels_.row(p).data(), inputs(),
                            y + i * outputs() + p * panel_columns, outputs(), columns, output);
    };
    tiles(std::integral_constant<int, tile_rows>{});
    tiles(std::integral_constant<int, tile_rows / 2>{});
    tiles(std::integral_constant<int, 1>{});
  }

  matrix panels_;  // [panels, inputs * panel_columns]
};

}  // namespace

std::unique_ptr<const packed_matrix> pack_native(const matrix& weights) {
  return std::make_unique<native_matrix>(weights);
}

}  // namespace llama
