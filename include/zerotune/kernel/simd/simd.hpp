// SPDX-License-Identifier: Apache-2.0
// The SIMD back end: include this and pass backend::simd<>{} (layer: kernel). Needs xsimd 8.1 or
// newer. Compile for the target (-mavx2 -mfma, -march=x86-64-v4): without flags it is SSE2.
#pragma once

#include "zerotune/kernel/simd/attention.hpp"
#include "zerotune/kernel/simd/decode.hpp"
#include "zerotune/kernel/simd/row_ops.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

/// The instruction set that backend::simd<Arch> uses in this translation unit, as xsimd names it:
/// "sse2", "fma3+avx2", "avx512bw", ...
template <class Arch = void>
constexpr const char* instruction_set_name() {
  return impl::simd_arch<Arch>::name();
}
template <class Arch>
constexpr const char* instruction_set_name(backend::simd<Arch>) {
  return instruction_set_name<Arch>();
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
