// SPDX-License-Identifier: Apache-2.0
// Launches on a CUDA stream (layer: kernel). Needs a CUDA compiler. No synchronisation, no
// allocation; the launch's own error is checked, not that of earlier work on the stream.
#pragma once

#include "zerotune/kernel/cuda/device_context.cuh"
#include "zerotune/kernel/cuda/launcher.cuh"

#if defined(__CUDACC__)

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace cuda {

/// Every kernel of the library is this function.
template <class Kernel>
__global__ void __launch_bounds__(Kernel::threads, Kernel::min_blocks)
    run_kernel(const typename Kernel::arguments arguments) {
  device_context context;
  Kernel::run(context, arguments);
}

template <>
struct launcher<backend::cuda> {
  template <class Kernel>
  static void launch(const backend::cuda& backend, const char* function, index_t blocks,
                     index_t shared_bytes, const typename Kernel::arguments& arguments) {
    const auto stream = static_cast<cudaStream_t>(backend.stream);
    if (shared_bytes > default_shared_bytes)
      check(function, Kernel::name,
            cudaFuncSetAttribute(run_kernel<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes)));
    run_kernel<Kernel><<<static_cast<unsigned>(blocks), Kernel::threads,
                         static_cast<std::size_t>(shared_bytes), stream>>>(arguments);
    check(function, Kernel::name, cudaGetLastError());
  }
  static void copy(const backend::cuda& backend, const char* function, void* to, const void* from,
                   std::size_t bytes) {
    // From pageable memory: the runtime has taken its own copy when this returns.
    check(function, "copy of a table",
          cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice,
                          static_cast<cudaStream_t>(backend.stream)));
  }
  static bool has_tensor_cores(const backend::cuda&, const char* function) {
    int device = 0, major = 0;
    check(function, "query of the device", cudaGetDevice(&device));
    check(function, "query of the device",
          cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    return major >= 8;
  }

 private:
  static constexpr index_t default_shared_bytes = 48 * 1024;

  static void check(const char* function, const char* what, cudaError_t error) {
    if (error == cudaSuccess) return;
    std::string hint;
    if (error == cudaErrorInsufficientDriver)
      hint = "; no CUDA driver is installed, or it is older than the runtime";
    else if (error == cudaErrorNoDevice)
      hint = "; this machine has no CUDA device";
    else if (error == cudaErrorNoKernelImageForDevice)
      hint = "; the kernels were not compiled for this device's architecture";
    impl::raise<device_error>(std::string(function) + ": " + what + ": " + cudaGetErrorName(error) +
                              " (" + cudaGetErrorString(error) + hint + ")");
  }
};

}  // namespace cuda
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune

#endif
