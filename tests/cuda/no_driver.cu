// SPDX-License-Identifier: Apache-2.0
// Without a driver or a device a launch is a clear error that names function, kernel and reason.
// With a device the test says so and is skipped.
#include <cstdio>
#include <string>

#include "zerotune/apply/cuda/cuda.cuh"

int main() {
  namespace zt = zerotune;
  int devices = 0;
  if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0) {
    std::puts("skipped: this machine has a CUDA device");
    return 0;
  }
  const zt::backend::cuda backend{nullptr};
  alignas(16) static float memory[64];  // never touched: the launch fails
  const zt::tensor_view<float, 2, zt::device_memory> logits(memory, {8, 8});
  int failures = 0;
  const auto expect = [&](const char* what, const std::string& message) {
    const bool named = message.find("cudaError") != std::string::npos &&
                       message.find(what) != std::string::npos &&
                       (message.find("no CUDA driver") != std::string::npos ||
                        message.find("no CUDA device") != std::string::npos);
    std::printf("%s %s\n", named ? "ok    " : "failed", message.c_str());
    failures += !named;
  };
  const auto message_of = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const zt::device_error& e) {
      return e.what();
    }
    return "no error";
  };
  expect("bias_logits: bias_logits",
         message_of([&] { zt::bias_logits(backend, logits, zt::causal{}); }));
  expect("to_device: copy of a table", message_of([&] {
           static std::byte table[64];
           zt::to_device(backend, zt::initial_token{2.0f}, {1, 1, 8, 8},
                         zt::device_storage(table, {64}));
         }));
  expect("attention: query of the device", message_of([&] {
           static zt::float16 x[4][64];
           using view = zt::tensor_view<zt::float16, 4, zt::device_memory>;
           zt::attention(backend, view(x[0], {1, 1, 1, 64}), view(x[1], {1, 1, 1, 64}),
                         view(x[2], {1, 1, 1, 64}), view(x[3], {1, 1, 1, 64}), zt::causal{}, {},
                         zt::head_dims<64>{});
         }));
  std::printf("%d passed, %d failed\n", 3 - failures, failures);
  return failures ? 1 : 0;
}
