// SPDX-License-Identifier: Apache-2.0
// Finds the translated PTX of a kernel by the name that nvcc gave it.
#pragma once

#include <cstddef>
#include <map>
#include <stdexcept>
#include <string>
#include <typeinfo>

#include "scheduler/scheduler.hpp"
#include "zerotune/core/config.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace cuda {
/// Stands where run_kernel<Kernel> stands, so that both names encode Kernel alike.
template <class Kernel>
struct kernel_tag {};
}  // namespace cuda
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune

namespace zerotune_test {

/// A translated kernel: parameters are the bytes of its arguments.
using ptx_kernel = void (*)(lane&, const char* parameters, std::size_t shared_bytes);

/// Mangled name -> kernel; each translated file adds its own.
inline std::map<std::string, ptx_kernel>& ptx_kernels() {
  static std::map<std::string, ptx_kernel> kernels;
  return kernels;
}
struct ptx_registration {
  ptx_registration(const char* name, ptx_kernel kernel) { ptx_kernels()[name] = kernel; }
};

template <class Kernel>
ptx_kernel find_ptx_kernel() {
  // N...10kernel_tagI<Kernel>EE -> _ZN...10run_kernelI<Kernel>EEvNT_9argumentsE
  std::string name = typeid(zerotune::cuda::kernel_tag<Kernel>).name();
  const std::string tag = "10kernel_tagI";
  name.replace(name.find(tag), tag.size(), "10run_kernelI");
  name = "_Z" + name + "vNT_9argumentsE";
  const auto found = ptx_kernels().find(name);
  if (found == ptx_kernels().end()) throw std::logic_error("the PTX has no kernel " + name);
  return found->second;
}

}  // namespace zerotune_test
