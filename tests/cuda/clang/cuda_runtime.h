// SPDX-License-Identifier: Apache-2.0
// As much of a CUDA toolkit as the headers of zerotune need, written for this test: with it clang
// compiles the kernels for a device without the toolkit's headers, which newer ones than clang know
// would refuse. Declarations only; nothing is linked or run.
#pragma once

#define __CUDACC__
#define __host__ __attribute__((host))
#define __device__ __attribute__((device))
#define __global__ __attribute__((global))
#define __shared__ __attribute__((shared))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))
#define __forceinline__ __inline__ __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))

#include <__clang_cuda_builtin_vars.h>

#include <cstddef>

struct dim3 {
  unsigned x, y, z;
  __host__ __device__ constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1)
      : x(a), y(b), z(c) {}
};
struct CUstream_st;
using cudaStream_t = CUstream_st*;
enum cudaError_t {
  cudaSuccess,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorNoKernelImageForDevice = 209
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1 };
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor = 75 };
cudaError_t cudaGetLastError();
cudaError_t cudaGetDevice(int*);
cudaError_t cudaDeviceGetAttribute(int*, cudaDeviceAttr, int);
cudaError_t cudaMemcpyAsync(void*, const void*, std::size_t, cudaMemcpyKind, cudaStream_t);
const char* cudaGetErrorName(cudaError_t);
const char* cudaGetErrorString(cudaError_t);
template <class F>
cudaError_t cudaFuncSetAttribute(F*, cudaFuncAttribute, int);
extern "C" {
int cudaConfigureCall(dim3, dim3, std::size_t, cudaStream_t);
unsigned __cudaPushCallConfiguration(dim3, dim3, std::size_t, void*);
cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, std::size_t*, void*);
cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, std::size_t, cudaStream_t);
}

__device__ inline void __syncwarp() { __nvvm_bar_warp_sync(0xffffffffu); }
template <class T>
__device__ T __shfl_xor_sync(unsigned mask, T value, int lane_mask) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  int words[sizeof(T) / 4];
  __builtin_memcpy(words, &value, sizeof(T));
  for (int& word : words) word = __nvvm_shfl_sync_bfly_i32(mask, word, lane_mask, 31);
  __builtin_memcpy(&value, words, sizeof(T));
  return value;
}
template <class T>
__device__ T __shfl_sync(unsigned mask, T value, int lane) {
  static_assert(sizeof(T) == 4);
  int word;
  __builtin_memcpy(&word, &value, 4);
  word = __nvvm_shfl_sync_idx_i32(mask, word, lane, 31);
  __builtin_memcpy(&value, &word, 4);
  return value;
}
__device__ inline std::size_t __cvta_generic_to_global(const void* p) {
  return (std::size_t)(__attribute__((address_space(1))) const void*)p;
}
__device__ inline std::size_t __cvta_generic_to_shared(const void* p) {
  return (std::size_t)(__attribute__((address_space(3))) const void*)p;
}
__device__ inline void __trap() { asm volatile("trap;"); }
__device__ inline float __frcp_rn(float x) { return __nvvm_rcp_rn_f(x); }
extern "C" {
__device__ float expf(float);
__device__ float logf(float);
__device__ float tanhf(float);
__device__ float expm1f(float);
__device__ double exp(double);
__device__ double log(double);
__device__ double tanh(double);
}
