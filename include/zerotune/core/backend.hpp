// SPDX-License-Identifier: Apache-2.0
// Back ends are tags: an empty type that kernels are specialised on (layer: core).
#pragma once

namespace zerotune::backend {

/// Plain C++, one element at a time: the reference. Always there.
struct scalar {};

/// Vectors through xsimd, once zerotune/kernel/simd/simd.hpp is included. Arch is an xsimd
/// architecture (xsimd::avx2, ...); void is the best that the compiler was told of.
template <class Arch = void>
struct simd {};

/// Eigen's expressions, once zerotune/kernel/eigen/eigen.hpp is included; float and double.
struct eigen {};

}  // namespace zerotune::backend
