// SPDX-License-Identifier: Apache-2.0
// The machine that the tests of this folder run on, the only switch between the ways of execution:
//   (default)                    the host context: kernel bodies on fibres
//   ZEROTUNE_TEST_MACHINE_PTX    the PTX of the same kernels, translated, on the same fibres
//   __CUDACC__                   a GPU (or, with -ptx, nvcc making the PTX for the line above)
#pragma once

#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "zerotune/apply/cuda/cuda.cuh"

#if defined(__CUDACC__)

namespace zerotune_test {

enum class order { forward, reverse, random };

/// A GPU. Tests of order and of tensor cores have no effect here.
struct machine : zerotune::backend::cuda {
  order schedule = order::forward;
  bool tensor_cores = true;
};

inline void require(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}
inline void* allocate_device(std::size_t bytes) {
  void* memory = nullptr;
  require(cudaMalloc(&memory, bytes ? bytes : 16));
  return memory;
}
inline void free_device(void* memory) { cudaFree(memory); }
inline void copy_device(void* to, const void* from, std::size_t bytes) {
  require(cudaMemcpy(to, from, bytes, cudaMemcpyDefault));
}

}  // namespace zerotune_test

template <>
struct zerotune::cuda::launcher<zerotune_test::machine> {
  using device = launcher<backend::cuda>;
  template <class Kernel>
  static void launch(const zerotune_test::machine& m, const char* function, index_t blocks,
                     index_t shared_bytes, const typename Kernel::arguments& arguments) {
    device::launch<Kernel>(m, function, blocks, shared_bytes, arguments);
  }
  static void copy(const zerotune_test::machine& m, const char* function, void* to,
                   const void* from, std::size_t bytes) {
    device::copy(m, function, to, from, bytes);
  }
  static bool has_tensor_cores(const zerotune_test::machine& m, const char* function) {
    return m.tensor_cores && device::has_tensor_cores(m, function);
  }
};

#else

#include "scheduler/host_context.hpp"
#include "scheduler/scheduler.hpp"
#if defined(ZEROTUNE_TEST_MACHINE_PTX)
#include "ptx/kernel_table.hpp"
#endif

namespace zerotune_test {

/// The CPU: one fibre per CUDA thread.
struct machine {
  order schedule = order::forward;
  bool tensor_cores = true;
  unsigned seed = 1;
  std::vector<std::vector<access> >* trace = nullptr;  // of the last launch's first block
  std::vector<std::string>* launched = nullptr;        // names of the kernels
};

// Device memory is host memory of exactly the size asked for, so that a sanitizer sees its ends; it
// is aligned as cudaMalloc aligns.
inline void* allocate_device(std::size_t bytes) {
  void* memory = nullptr;
  if (::posix_memalign(&memory, 256, bytes ? bytes : 1)) throw std::bad_alloc();
  return memory;
}
inline void free_device(void* memory) { std::free(memory); }
inline void copy_device(void* to, const void* from, std::size_t bytes) {
  if (bytes) std::memcpy(to, from, bytes);
}

}  // namespace zerotune_test

template <>
struct zerotune::cuda::launcher<zerotune_test::machine> {
  template <class Kernel>
  static void launch(const zerotune_test::machine& m, const char*, index_t blocks,
                     index_t shared_bytes, const typename Kernel::arguments& arguments) {
    if (m.launched) m.launched->push_back(Kernel::name);
#if defined(ZEROTUNE_TEST_MACHINE_PTX)
    struct call {
      zerotune_test::ptx_kernel kernel;
      const char* parameters;
      std::size_t shared_bytes;
    } c{zerotune_test::find_ptx_kernel<Kernel>(), reinterpret_cast<const char*>(&arguments),
        static_cast<std::size_t>(shared_bytes)};
    zerotune_test::run_blocks(
        blocks, Kernel::threads, static_cast<std::size_t>(shared_bytes),
        [](void* argument, zerotune_test::lane& l) {
          auto* const self = static_cast<call*>(argument);
          self->kernel(l, self->parameters, self->shared_bytes);
        },
        &c, m.schedule, m.seed);
#else
    zerotune_test::run_blocks(
        blocks, Kernel::threads, static_cast<std::size_t>(shared_bytes),
        [](void* argument, zerotune_test::lane& l) {
          zerotune_test::host_context context(l);
          Kernel::run(context, *static_cast<const typename Kernel::arguments*>(argument));
        },
        const_cast<typename Kernel::arguments*>(&arguments), m.schedule, m.seed, m.trace);
#endif
  }
  static void copy(const zerotune_test::machine&, const char*, void* to, const void* from,
                   std::size_t bytes) {
    if (bytes) std::memcpy(to, from, bytes);
  }
  static bool has_tensor_cores(const zerotune_test::machine& m, const char*) {
    return m.tensor_cores;
  }
};

#endif

namespace zerotune_test {

/// An array in device memory.
template <class T>
class device_array {
 public:
  explicit device_array(std::size_t count)
      : data_(static_cast<T*>(allocate_device(count * sizeof(T)))), count_(count) {}
  explicit device_array(const std::vector<T>& values) : device_array(values.size()) {
    copy_device(data_, values.data(), count_ * sizeof(T));
  }
  device_array(const device_array&) = delete;
  device_array& operator=(const device_array&) = delete;
  ~device_array() { free_device(data_); }

  T* data() const { return data_; }
  std::size_t size() const { return count_; }
  std::vector<T> read() const {
    std::vector<T> values(count_);
    copy_device(values.data(), data_, count_ * sizeof(T));
    return values;
  }
  template <std::size_t Rank>
  zerotune::tensor_view<T, Rank, zerotune::device_memory> view(
      const zerotune::index_t (&extents)[Rank]) const {
    return {data_, extents};
  }
  zerotune::tensor_view<T, 1, zerotune::device_memory> flat() const {
    return {data_, {static_cast<zerotune::index_t>(count_)}};
  }

 private:
  T* data_;
  std::size_t count_;
};

/// Device memory for a table.
class storage : public device_array<std::byte> {
 public:
  explicit storage(zerotune::index_t bytes)
      : device_array<std::byte>(static_cast<std::size_t>(bytes)) {}
};

}  // namespace zerotune_test
