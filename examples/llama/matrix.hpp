// SPDX-License-Identifier: Apache-2.0
// A row-major matrix of floats on 64-byte boundaries, whose memory is kept when it shrinks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>

namespace llama {

/// Owns [rows, columns] floats, row after row without gaps.
class matrix {
 public:
  matrix() = default;
  matrix(std::int64_t rows, std::int64_t columns) { resize(rows, columns); }

  /// Gives the matrix another shape. The contents become unspecified; memory is allocated only if
  /// there was never as much.
  /// @throws std::bad_alloc
  void resize(std::int64_t rows, std::int64_t columns) {
    const auto size = static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
    if (size > capacity_) {
      data_.reset(static_cast<float*>(::operator new(size * sizeof(float), alignment)));
      capacity_ = size;
    }
    rows_ = rows;
    columns_ = columns;
  }

  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }
  float* data() { return data_.get(); }
  const float* data() const { return data_.get(); }
  std::span<float> row(std::int64_t i) {
    return {data_.get() + i * columns_, static_cast<std::size_t>(columns_)};
  }
  std::span<const float> row(std::int64_t i) const {
    return {data_.get() + i * columns_, static_cast<std::size_t>(columns_)};
  }
  std::span<float> values() {
    return {data_.get(), static_cast<std::size_t>(rows_) * static_cast<std::size_t>(columns_)};
  }
  std::span<const float> values() const {
    return {data_.get(), static_cast<std::size_t>(rows_) * static_cast<std::size_t>(columns_)};
  }

 private:
  static constexpr std::align_val_t alignment{64};
  struct release {
    void operator()(float* data) const { ::operator delete(data, alignment); }
  };
  std::unique_ptr<float, release> data_;
  std::size_t capacity_ = 0;
  std::int64_t rows_ = 0, columns_ = 0;
};

}  // namespace llama
