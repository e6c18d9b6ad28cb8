// SPDX-License-Identifier: Apache-2.0
// How a kernel gets onto a machine (layer: kernel). cuda_launcher.cuh specialises it for
// backend::cuda; the tests bring machines of their own, and everything above is the same text.
#pragma once

#include <limits>
#include <string>

#include "zerotune/core/backend.hpp"
#include "zerotune/core/error.hpp"
#include "zerotune/kernel/cuda/context.cuh"

namespace zerotune {

/// A launch or copy that the CUDA runtime refused; the message names function, kernel and reason.
class device_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

inline namespace ZEROTUNE_ABI {
namespace cuda {

/// A specialisation has static functions:
///   void launch<Kernel>(backend, function, blocks, shared_bytes, arguments)   asynchronous
///   void copy(backend, function, to, from, bytes)   host to device, `from` may go at once
///   bool has_tensor_cores(backend, function)        sm_80 or later
template <class Backend>
struct launcher;

/// A back end that kernels of this folder can be launched on.
template <class Backend>
concept device_backend = requires(const Backend& backend) {
  { launcher<Backend>::has_tensor_cores(backend, "") } -> std::same_as<bool>;
};

/// Dynamic shared memory of a kernel: its own constant, or none.
template <class Kernel>
constexpr index_t shared_bytes_of() {
  if constexpr (requires { Kernel::shared_bytes; })
    return Kernel::shared_bytes;
  else
    return 0;
}

/// Launches `blocks` blocks of the kernel; none is no launch.
/// @throws invalid_argument for more blocks than a grid has, device_error if the launch fails
template <class Kernel, class Backend>
void launch(const Backend& backend, const char* function, index_t blocks,
            const typename Kernel::arguments& arguments) {
  if (blocks == 0) return;
  if (blocks > std::numeric_limits<std::int32_t>::max())
    impl::fail(function, std::string("blocks of kernel ") + Kernel::name, "at most 2^31 - 1",
               std::to_string(blocks));
  launcher<Backend>::template launch<Kernel>(backend, function, blocks, shared_bytes_of<Kernel>(),
                                             arguments);
}

/// Blocks for a kernel that gives each row a warp.
constexpr index_t blocks_of_rows(index_t rows, int threads) {
  const index_t warps = threads / warp_size;
  return (rows + warps - 1) / warps;
}

}  // namespace cuda
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
