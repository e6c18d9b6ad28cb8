// SPDX-License-Identifier: Apache-2.0
// What a kernel body may ask of the machine (layer: kernel). Bodies are templates on a context:
// device_context.cuh gives it CUDA's intrinsics, tests/cuda/ runs the same text on the CPU with one
// fibre per thread. Nothing here needs the toolkit.
#pragma once

#include <concepts>
#include <cstdint>

#include "zerotune/core/types.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace cuda {

inline constexpr int warp_size = 32;

/// 16 bytes of T: the widest load and store, at 16-byte aligned addresses only.
template <class T>
struct alignas(16) packet {
  static constexpr int count = 16 / static_cast<int>(sizeof(T));
  T values[count];
};

/// A 16-bit type that tensor cores multiply.
template <class T>
concept mma_element = std::same_as<T, float16> || std::same_as<T, bfloat16>;

/// The machine that a body runs on. A block has a multiple of warp_size threads, numbered in one
/// dimension. Barriers and collectives are met by all threads of the block or of the warp.
///
///   thread(), threads(), block()              index in the block, size of the block, its number
///   lane(), warp(), warps()
///   barrier(), warp_barrier()                 order shared and global memory
///   shuffle_xor(value, mask), shuffle(value, lane)          exchange in a warp; order no memory
///   shared<T>(count)                          the next piece of dynamic shared memory, 16-aligned;
///                                             every thread asks for the same pieces
///   load(p), store(p, value)                  vector accesses that tests count
///   copy_async(to, from, valid)               16 bytes global -> shared, zeros if not valid; then
///   commit_copies(), wait_copies<Pending>()   as cp.async; needs a barrier to be seen by others
///   load_matrices(r, p)                       ldmatrix.x4: lane i gives row i % 8 of matrix i / 8
///   load_matrices_transposed(r, p)
///   mma<T>(d, a, b)                           m16n8k16, T in, float accumulated
///   to_float(x), round<T>(x), pack<T>(low, high)            conversions, to nearest even
///   exp2(x), reciprocal(x)                    fast ones: 2 ulp
template <class C>
concept context = requires(C& c, float f, std::uint32_t (&r)[4], float (&d)[4],
                           const std::uint32_t (&b)[2], float16* half, packet<float>* vector) {
  { c.thread() } -> std::same_as<int>;
  { c.threads() } -> std::same_as<int>;
  { c.block() } -> std::same_as<index_t>;
  { c.lane() } -> std::same_as<int>;
  { c.warp() } -> std::same_as<int>;
  { c.warps() } -> std::same_as<int>;
  c.barrier();
  c.warp_barrier();
  { c.shuffle_xor(f, 1) } -> std::same_as<float>;
  { c.shuffle(f, 0) } -> std::same_as<float>;
  { c.template shared<float>(1) } -> std::same_as<float*>;
  { c.load(vector) } -> std::same_as<packet<float>>;
  c.store(vector, packet<float>{});
  c.copy_async(half, half, true);
  c.commit_copies();
  c.template wait_copies<0>();
  c.load_matrices(r, half);
  c.load_matrices_transposed(r, half);
  c.template mma<float16>(d, r, b);
  { c.to_float(float16{}) } -> std::same_as<float>;
  { c.template round<bfloat16>(f) } -> std::same_as<bfloat16>;
  { c.template pack<float16>(f, f) } -> std::same_as<std::uint32_t>;
  { c.exp2(f) } -> std::same_as<float>;
  { c.reciprocal(f) } -> std::same_as<float>;
};

}  // namespace cuda
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
