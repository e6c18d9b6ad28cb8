// SPDX-License-Identifier: Apache-2.0
// The context of a CUDA thread (layer: kernel): the only file with intrinsics, each function one of
// them. Needs a CUDA compiler; tensor cores, ldmatrix and cp.async need sm_80 and trap below.
#pragma once

#include "zerotune/kernel/cuda/context.cuh"

#if defined(__CUDACC__)

#include <cuda_runtime.h>

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace cuda {

extern __shared__ __align__(16) unsigned char dynamic_shared[];

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
inline constexpr bool has_sm80 = false;
#else
inline constexpr bool has_sm80 = true;
#endif

/// See context.cuh for what each function promises.
class device_context {
 public:
  __device__ __forceinline__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ int threads() const { return static_cast<int>(blockDim.x); }
  __device__ __forceinline__ index_t block() const { return static_cast<index_t>(blockIdx.x); }
  __device__ __forceinline__ int lane() const { return thread() % warp_size; }
  __device__ __forceinline__ int warp() const { return thread() / warp_size; }
  __device__ __forceinline__ int warps() const { return threads() / warp_size; }
  __device__ __forceinline__ void barrier() const { __syncthreads(); }
  __device__ __forceinline__ void warp_barrier() const { __syncwarp(); }

  template <class T>
  __device__ __forceinline__ T shuffle_xor(T value, int mask) const {
    return __shfl_xor_sync(0xffffffffu, value, mask);
  }
  template <class T>
  __device__ __forceinline__ T shuffle(T value, int lane) const {
    return __shfl_sync(0xffffffffu, value, lane);
  }

  template <class T>
  __device__ __forceinline__ T* shared(int count) {
    T* const piece = reinterpret_cast<T*>(dynamic_shared + used_);
    used_ = (used_ + static_cast<unsigned>(count) * sizeof(T) + 15u) & ~15u;
    return piece;
  }

  template <class T>
  __device__ __forceinline__ T load(const T* from) const {
    return *from;
  }
  template <class T>
  __device__ __forceinline__ void store(T* to, const T& value) const {
    *to = value;
  }

  template <class T>
  __device__ __forceinline__ void copy_async(T* to, const T* from, bool valid) const {
    if constexpr (has_sm80)
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                   "l"(__cvta_generic_to_global(from)), "r"(valid ? 16 : 0)
                   : "memory");
    else
      __trap();
  }
  __device__ __forceinline__ void commit_copies() const {
    if constexpr (has_sm80) asm volatile("cp.async.commit_group;" ::: "memory");
  }
  template <int Pending>
  __device__ __forceinline__ void wait_copies() const {
    if constexpr (has_sm80) asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
  }

  template <class T>
  __device__ __forceinline__ void load_matrices(std::uint32_t (&r)[4], const T* row) const {
    if constexpr (has_sm80)
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                   : "r"(shared_address(row))
                   : "memory");
    else
      __trap();
  }
  template <class T>
  __device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&r)[4],
                                                           const T* row) const {
    if constexpr (has_sm80)
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                   : "r"(shared_address(row))
                   : "memory");
    else
      __trap();
  }

  template <mma_element T>
  __device__ __forceinline__ void mma(float (&d)[4], const std::uint32_t (&a)[4],
                                      const std::uint32_t (&b)[2]) const {
    if constexpr (!has_sm80)
      __trap();
    else if constexpr (std::same_as<T, float16>)
      asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
          "{%8,%9}, {%0,%1,%2,%3};"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
      asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
          "{%8,%9}, {%0,%1,%2,%3};"
          : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }

  __device__ __forceinline__ float to_float(float x) const { return x; }
  __device__ __forceinline__ float to_float(float16 x) const {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
    return value;
  }
  __device__ __forceinline__ float to_float(bfloat16 x) const { return static_cast<float>(x); }

  template <element T>
  __device__ __forceinline__ T round(float x) const {
    if constexpr (std::same_as<T, float>) {
      return x;
    } else if constexpr (std::same_as<T, float16>) {
      std::uint16_t bits;
      asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
      return float16::from_bits(bits);
    } else if constexpr (has_sm80) {
      std::uint16_t bits;
      asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
      return bfloat16::from_bits(bits);
    } else {
      return bfloat16(x);
    }
  }
  template <mma_element T>
  __device__ __forceinline__ std::uint32_t pack(float low, float high) const {
    std::uint32_t pair = 0;
    if constexpr (!has_sm80)
      __trap();
    else if constexpr (std::same_as<T, float16>)
      asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    else
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
  }

  __device__ __forceinline__ float exp2(float x) const {
    float value;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
    return value;
  }
  __device__ __forceinline__ float reciprocal(float x) const { return __frcp_rn(x); }

 private:
  static __device__ __forceinline__ unsigned shared_address(const void* p) {
    return static_cast<unsigned>(__cvta_generic_to_shared(p));
  }

  unsigned used_ = 0;
};

}  // namespace cuda
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune

#endif
