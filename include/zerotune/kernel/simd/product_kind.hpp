// SPDX-License-Identifier: Apache-2.0
// What the products of attention on bfloat16 are made of (layer: kernel).
#pragma once

#include "zerotune/kernel/simd/matrix_tiles.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// What the products of attention are made of.
enum class product_kind { numbers, pairs, tiles };

/// The fastest that this translation unit and this machine have for bfloat16
/// throughout. AMD's dot products of pairs are twice as fast as multiply-adds,
/// Intel's half as fast.
inline product_kind bfloat16_products() {
#if ZEROTUNE_HAS_AMX
  if (amx_tiles::available()) return product_kind::tiles;
#endif
#if defined(__AVX512BF16__)
  if (__builtin_cpu_is("amd")) return product_kind::pairs;
#endif
  return product_kind::numbers;
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
