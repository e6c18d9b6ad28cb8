// SPDX-License-Identifier: Apache-2.0
// Mistakes that must not compile, one per macro; without one the file compiles.
#include "zerotune/apply/cuda/cuda.cuh"
#include "zerotune/apply/weights.hpp"

struct device {};  // a back end that launches nothing
template <>
struct zerotune::cuda::launcher<device> {
  template <class Kernel>
  static void launch(const device&, const char*, index_t, index_t,
                     const typename Kernel::arguments&) {}
  static void copy(const device&, const char*, void*, const void*, std::size_t) {}
  static bool has_tensor_cores(const device&, const char*) { return true; }
};

void calls(float* data, double* doubles, const float* gammas) {
  namespace zt = zerotune;
  const zt::tensor_view<float, 2, zt::device_memory> on_device(data, {2, 3});
  zt::rescale_weights(device{}, on_device, zt::causal{});
  static_cast<void>(doubles), static_cast<void>(gammas);
#if defined(ZEROTUNE_MISTAKE_host_view)
  const zt::tensor_view<float, 2> on_host(data, {2, 3});
  zt::rescale_weights(device{}, on_host, zt::causal{});
#elif defined(ZEROTUNE_MISTAKE_host_table)
  const zt::tensor_view<const float, 1> table(gammas, {1});
  zt::rescale_weights(device{}, on_device, zt::causal{} | zt::initial_token{table});
#elif defined(ZEROTUNE_MISTAKE_double_elements)
  const zt::tensor_view<double, 2, zt::device_memory> view(doubles, {2, 3});
  zt::rescale_weights(device{}, view, zt::causal{});
#endif
}
