// SPDX-License-Identifier: Apache-2.0
// A processor's matrix of tiles (layer: kernel): eight tiles of 16 rows of 64 bytes and the product
// of bfloat16 pairs, as Intel's AMX has them, and a stand-in with the same interface that runs
// everywhere. An object is a session: it configures the tiles and releases them at its end.
#pragma once

#include "zerotune/core/types.hpp"

#if ZEROTUNE_HAS_AMX
#include <immintrin.h>

#include "zerotune/core/instruction_set.hpp"
#endif

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Rows of a tile, and 32-bit words of a row.
inline constexpr index_t tile_rows = 16;

/// The tiles as memory. A word is a float in the result and a pair of bfloat16 in the factors.
class portable_tiles {
 public:
  ZEROTUNE_ALWAYS_INLINE static constexpr bool available() { return true; }

  template <int Tile>
  ZEROTUNE_ALWAYS_INLINE void zero() {
    __builtin_memset(words_[Tile], 0, sizeof words_[Tile]);
  }
  template <int Tile>
  ZEROTUNE_ALWAYS_INLINE void load(const void* from, index_t row_bytes) {
    for (index_t i = 0; i < tile_rows; ++i)
      __builtin_memcpy(words_[Tile][i], static_cast<const char*>(from) + i * row_bytes,
                       sizeof words_[Tile][i]);
  }
  template <int Tile>
  ZEROTUNE_ALWAYS_INLINE void store(void* to, index_t row_bytes) const {
    for (index_t i = 0; i < tile_rows; ++i)
      __builtin_memcpy(static_cast<char*>(to) + i * row_bytes, words_[Tile][i],
                       sizeof words_[Tile][i]);
  }
  /// result[i][j] += sum over k of a[i][k].low b[k][j].low + a[i][k].high b[k][j].high
  template <int Result, int A, int B>
  ZEROTUNE_ALWAYS_INLINE void dot() {
    for (index_t i = 0; i < tile_rows; ++i)
      for (index_t k = 0; k < tile_rows; ++k)
        for (index_t j = 0; j < tile_rows; ++j) {
          float sum = __builtin_bit_cast(float, words_[Result][i][j]);
          sum += low(words_[A][i][k]) * low(words_[B][k][j]);
          sum += high(words_[A][i][k]) * high(words_[B][k][j]);
          words_[Result][i][j] = __builtin_bit_cast(std::uint32_t, sum);
        }
  }

 private:
  ZEROTUNE_ALWAYS_INLINE static float low(std::uint32_t pair) {
    return __builtin_bit_cast(float, pair << 16);
  }
  ZEROTUNE_ALWAYS_INLINE static float high(std::uint32_t pair) {
    return __builtin_bit_cast(float, pair & 0xffff0000u);
  }
  alignas(64) std::uint32_t words_[8][tile_rows][tile_rows];
};

#if ZEROTUNE_HAS_AMX

/// The registers. Compilers want each tile's number as a literal, not as a constant.
class amx_tiles {
 public:
  /// Asked once: the kernel may refuse a process its tiles.
  static bool available() {
    static const bool granted = request_tiles();
    return granted;
  }

  ZEROTUNE_ALWAYS_INLINE amx_tiles() {
    struct alignas(64) {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } shapes;
    // GCC's intrinsic names the first eight bytes as its operand: the rest must be there as well.
    asm volatile("" : : "r"(&shapes) : "memory");
    _tile_loadconfig(&shapes);
  }
  ZEROTUNE_ALWAYS_INLINE ~amx_tiles() { _tile_release(); }
  amx_tiles(const amx_tiles&) = delete;
  amx_tiles& operator=(const amx_tiles&) = delete;

  template <int Tile>
  ZEROTUNE_ALWAYS_INLINE void zero() {
    if constexpr (Tile == 0) _tile_zero(0);
    if constexpr (Tile == 1) _tile_zero(1);
    if constexpr (Tile == 2) _tile_zero(2);
    if constexpr (Tile == 3) _tile_zero(3);
  }
  template <int Tile>
  ZEROTUNE_ALWAYS_INLINE void load(const void* from, index_t row_bytes) {
    if constexpr (Tile == 0) _tile_loadd(0, from, row_bytes);
    if constexpr (Tile == 1) _tile_loadd(1, from, row_bytes);
    if constexpr (Tile == 2) _tile_loadd(2, from, row_bytes);
    if constexpr (Tile == 3) _tile_loadd(3, from, row_bytes);
    if constexpr (Tile == 4) _tile_loadd(4, from, row_bytes);
    if constexpr (Tile == 5) _tile_loadd(5, from, row_bytes);
    if constexpr (Tile == 6) _tile_loadd(6, from, row_bytes);
    if constexpr (Tile == 7) _tile_loadd(7, from, row_bytes);
  }
  template <int Tile>
  ZEROTUNE_ALWAYS_INLINE void store(void* to, index_t row_bytes) const {
    if constexpr (Tile == 0) _tile_stored(0, to, row_bytes);
    if constexpr (Tile == 1) _tile_stored(1, to, row_bytes);
    if constexpr (Tile == 2) _tile_stored(2, to, row_bytes);
    if constexpr (Tile == 3) _tile_stored(3, to, row_bytes);
  }
  template <int Result, int A, int B>
  ZEROTUNE_ALWAYS_INLINE void dot() {
    static_assert(A == 4 || A == 5, "written out for a square of two by two tiles");
    static_assert(Result == 2 * (A - 4) + (B - 6), "results 0, 1, 2, 3 are rows of 6 and 7");
    if constexpr (Result == 0) _tile_dpbf16ps(0, 4, 6);
    if constexpr (Result == 1) _tile_dpbf16ps(1, 4, 7);
    if constexpr (Result == 2) _tile_dpbf16ps(2, 5, 6);
    if constexpr (Result == 3) _tile_dpbf16ps(3, 5, 7);
  }
};

#endif

/// Two by two tiles at once, so that each factor is loaded once for two products.
template <class Tiles>
struct tile_square {
  Tiles& tiles;

  ZEROTUNE_ALWAYS_INLINE void zero() const {
    tiles.template zero<0>();
    tiles.template zero<1>();
    tiles.template zero<2>();
    tiles.template zero<3>();
  }
  /// 32 x 32 floats, rows `row` floats apart.
  ZEROTUNE_ALWAYS_INLINE void load(const float* from, index_t row) const {
    const index_t bytes = row * static_cast<index_t>(sizeof(float));
    tiles.template load<0>(from, bytes);
    tiles.template load<1>(from + tile_rows, bytes);
    tiles.template load<2>(from + tile_rows * row, bytes);
    tiles.template load<3>(from + tile_rows * row + tile_rows, bytes);
  }
  ZEROTUNE_ALWAYS_INLINE void store(float* to, index_t row) const {
    const index_t bytes = row * static_cast<index_t>(sizeof(float));
    tiles.template store<0>(to, bytes);
    tiles.template store<1>(to + tile_rows, bytes);
    tiles.template store<2>(to + tile_rows * row, bytes);
    tiles.template store<3>(to + tile_rows * row + tile_rows, bytes);
  }
  /// Adds the product of 32 rows of 32 bfloat16 and of 16 rows of 32 pairs of them.
  ZEROTUNE_ALWAYS_INLINE void add(const bfloat16* a, index_t a_row, const std::uint32_t* b,
                                  index_t b_row) const {
    const index_t a_bytes = a_row * static_cast<index_t>(sizeof(bfloat16));
    const index_t b_bytes = b_row * static_cast<index_t>(sizeof(std::uint32_t));
    tiles.template load<4>(a, a_bytes);
    tiles.template load<6>(b, b_bytes);
    tiles.template load<7>(b + tile_rows, b_bytes);
    tiles.template load<5>(a + tile_rows * a_row, a_bytes);
    tiles.template dot<0, 4, 6>();
    tiles.template dot<1, 4, 7>();
    tiles.template dot<2, 5, 6>();
    tiles.template dot<3, 5, 7>();
  }
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
