// SPDX-License-Identifier: Apache-2.0
// What the benchmarks on a GPU share: device memory, timing by events, and the roofs of the device.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "zerotune/apply/cuda/cuda.cuh"

namespace zerotune_benchmark {

namespace zt = zerotune;

inline void require(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(1);
}

template <class T>
struct buffer {
  explicit buffer(std::size_t count) : count_(count) {
    require(cudaMalloc(&data, count * sizeof(T)));
  }
  explicit buffer(const std::vector<T>& x) : buffer(x.size()) {
    require(cudaMemcpy(data, x.data(), x.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  buffer(const buffer&) = delete;
  ~buffer() { cudaFree(data); }
  std::vector<T> read() const {
    std::vector<T> x(count_);
    require(cudaMemcpy(x.data(), data, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return x;
  }
  T* data = nullptr;

 private:
  std::size_t count_;
};

/// Median of the seconds of a launch.
template <class F>
double seconds_of(const F& launch, int runs = 20) {
  cudaEvent_t begin, end;
  require(cudaEventCreate(&begin));
  require(cudaEventCreate(&end));
  launch();
  std::vector<float> times;
  for (int i = 0; i < runs; ++i) {
    require(cudaEventRecord(begin));
    launch();
    require(cudaEventRecord(end));
    require(cudaEventSynchronize(end));
    float milliseconds = 0;
    require(cudaEventElapsedTime(&milliseconds, begin, end));
    times.push_back(milliseconds);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::nth_element(times.begin(), times.begin() + runs / 2, times.end());
  return double(times[runs / 2]) * 1e-3;
}

static __global__ void copy_kernel(const uint4* from, uint4* to, std::size_t count) {
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < count;
       i += std::size_t{gridDim.x} * blockDim.x)
    to[i] = from[i];
}
constexpr int mma_rounds = 4096, mma_chains = 8;
static __global__ void mma_kernel(float* out) {
  zt::cuda::device_context c;
  const std::uint32_t a[4] = {}, b[2] = {};
  float d[mma_chains][4] = {};
  for (int i = 0; i < mma_rounds; ++i)
#pragma unroll
    for (int chain = 0; chain < mma_chains; ++chain) c.mma<zt::bfloat16>(d[chain], a, b);
  float sum = 0;
  for (int chain = 0; chain < mma_chains; ++chain) sum += d[chain][0];
  if (sum != 0.0f) *out = sum;
}

struct roofs {
  double bytes_per_second, flops;
};
inline roofs measure_roofs() {
  int multiprocessors = 0;
  require(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
  const std::size_t bytes = std::size_t{1} << 30;
  const buffer<uint4> from(bytes / 16), to(bytes / 16);
  const double copy = seconds_of(
      [&] { copy_kernel<<<multiprocessors * 8, 256>>>(from.data, to.data, bytes / 16); });
  const buffer<float> out(1);
  const int blocks = multiprocessors * 4;
  const double mma = seconds_of([&] { mma_kernel<<<blocks, 256>>>(out.data); });
  require(cudaGetLastError());
  return {2.0 * double(bytes) / copy,
          2.0 * 16 * 8 * 16 * mma_chains * mma_rounds * 8.0 * blocks / mma};
}

template <class T>
std::vector<T> random_values(std::size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> distribution;
  std::vector<T> x(count);
  for (T& value : x) value = T(distribution(generator));
  return x;
}

/// True if there is a device; says so where there is none.
inline bool has_device() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0) return true;
  std::puts("skipped: no CUDA device");
  return false;
}

}  // namespace zerotune_benchmark
