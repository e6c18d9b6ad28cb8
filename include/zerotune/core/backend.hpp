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

/// CUDA kernels on the caller's stream, once zerotune/apply/cuda/cuda.cuh is included in a file
/// that a CUDA compiler compiles; float, float16 and bfloat16 in device_memory. Every call returns
/// at once. The stream is a cudaStream_t, which needs no CUDA header here; null is the default
/// stream.
struct cuda {
  void* stream = nullptr;
};

}  // namespace zerotune::backend
