// SPDX-License-Identifier: Apache-2.0
// The kernels that inspect_kernels.py compiles for every architecture and looks into; its table names
// them. With ZEROTUNE_INSPECT_SIZES a host program: each kernel's type, threads and shared memory.
#include "zerotune/apply/cuda/cuda.cuh"

namespace zt = zerotune;
using sink = zt::composition<zt::causal, zt::on_device<zt::initial_token>>;

#if defined(ZEROTUNE_INSPECT_SIZES)
#include <cstdio>
#include <typeinfo>
template <class Kernel>
void print_sizes() {
  std::printf("%s %d %lld\n", typeid(Kernel).name(), Kernel::threads,
              static_cast<long long>(zt::cuda::shared_bytes_of<Kernel>()));
}
#define ZEROTUNE_INSPECT(...) print_sizes<__VA_ARGS__>()
int main() {
#else
#define ZEROTUNE_INSPECT(...) \
  template __global__ void zt::cuda::run_kernel<__VA_ARGS__>(const typename __VA_ARGS__::arguments)
#endif

#if !defined(ZEROTUNE_INSPECT_SM75)
ZEROTUNE_INSPECT(zt::cuda::flash_kernel<zt::float16, 64, 4, sink>);
ZEROTUNE_INSPECT(zt::cuda::flash_kernel<zt::bfloat16, 128, 4, sink>);
ZEROTUNE_INSPECT(zt::cuda::flash_kernel<zt::float16, 128, 1, sink>);
ZEROTUNE_INSPECT(zt::cuda::flash_kernel<zt::bfloat16, 256, 4, sink>);
#if defined(ZEROTUNE_INSPECT_ALL)
ZEROTUNE_INSPECT(zt::cuda::flash_kernel<zt::bfloat16, 64, 1, sink>);
ZEROTUNE_INSPECT(zt::cuda::flash_kernel<zt::float16, 80, 4, sink>);
ZEROTUNE_INSPECT(zt::cuda::flash_kernel<zt::float16, 96, 4, sink>);
ZEROTUNE_INSPECT(zt::cuda::flash_kernel<zt::float16, 256, 1, sink>);
#endif
#endif
ZEROTUNE_INSPECT(zt::cuda::generic_attention_kernel<float, float, sink, true>);
ZEROTUNE_INSPECT(zt::cuda::merge_kernel<zt::float16>);
ZEROTUNE_INSPECT(zt::cuda::softmax_kernel<zt::float16, sink, true>);
ZEROTUNE_INSPECT(zt::cuda::rescale_kernel<zt::float16, sink>);
ZEROTUNE_INSPECT(zt::cuda::bias_kernel<zt::float16, sink>);
ZEROTUNE_INSPECT(zt::cuda::correct_kernel<zt::bfloat16, sink>);
#if defined(ZEROTUNE_INSPECT_SIZES)
}
#endif
