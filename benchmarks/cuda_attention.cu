// SPDX-License-Identifier: Apache-2.0
// Attention on a GPU: roofs of the device first (DRAM, tensor cores), then prefill and decode with
// and without gamma, checked against the scalar back end before anything is timed.
//
//   nvcc -std=c++20 -O3 -arch=native -Iinclude benchmarks/cuda_attention.cu -o cuda_attention
//
// A peer (cuDNN, an engine's own kernel) is linked in by -DZEROTUNE_BENCHMARK_PEER and a function
// `zerotune_benchmark_peer` as declared below; ratios then come from interleaved runs.
#include "cuda_harness.cuh"

namespace zt = zerotune;
using namespace zerotune_benchmark;

struct shape {
  const char* name;
  zt::index_t batch, num_heads, num_kv_heads, q_len, kv_len, head_dim;
};
constexpr shape shapes[] = {
    {"prefill 1 x 4096, 32/8 heads of 128", 1, 32, 8, 4096, 4096, 128},
    {"prefill 4 x 2048, 32/8 heads of 64", 4, 32, 8, 2048, 2048, 64},
    {"decode 32 x 4096, 32/8 heads of 128", 32, 32, 8, 1, 4096, 128},
    {"decode 1 x 32768, 32/8 heads of 128", 1, 32, 8, 1, 32768, 128},
};

#if defined(ZEROTUNE_BENCHMARK_PEER)
/// Causal attention without gamma, bfloat16, contiguous, softmax_scale 1/sqrt(head_dim).
extern "C" void zerotune_benchmark_peer(const void* q, const void* k, const void* v, void* out,
                                        const shape* s, cudaStream_t stream);
#endif

namespace {

/// Some rows against attention in double.
double error_of(const shape& s, const std::vector<zt::bfloat16>& q,
                const std::vector<zt::bfloat16>& k, const std::vector<zt::bfloat16>& v,
                const std::vector<zt::bfloat16>& out, double gamma) {
  double worst = 0;
  const auto at = [](const std::vector<zt::bfloat16>& x, zt::index_t i) {
    return double(float(x[std::size_t(i)]));
  };
  const zt::index_t d = s.head_dim, rows = s.batch * s.num_heads * s.q_len;
  for (zt::index_t r = 0; r < rows; r += std::max<zt::index_t>(1, rows / 13)) {
    const zt::index_t i = r % s.q_len, h = r / s.q_len % s.num_heads, b = r / s.q_len / s.num_heads;
    const zt::index_t kv = b * s.num_kv_heads + h / (s.num_heads / s.num_kv_heads);
    const zt::index_t last = s.kv_len - s.q_len + i;
    std::vector<double> o(std::size_t(d), 0.0), logits;
    double sum = 0, maximum = -1e300;
    for (zt::index_t j = 0; j <= last; ++j) {
      double dot = 0;
      for (zt::index_t c = 0; c < d; ++c)
        dot += at(q, r * d + c) * at(k, (kv * s.kv_len + j) * d + c);
      logits.push_back(dot / std::sqrt(double(d)) + (j == 0 ? std::log(gamma) : 0.0));
      maximum = std::max(maximum, logits.back());
    }
    for (zt::index_t j = 0; j <= last; ++j) {
      const double w = std::exp(logits[std::size_t(j)] - maximum);
      sum += w;
      for (zt::index_t c = 0; c < d; ++c)
        o[std::size_t(c)] += w * at(v, (kv * s.kv_len + j) * d + c);
    }
    for (zt::index_t c = 0; c < d; ++c)
      worst = std::max(worst, std::abs(o[std::size_t(c)] / sum - at(out, r * d + c)));
  }
  return worst;
}

int run(const shape& s, const roofs& roof) {
  using T = zt::bfloat16;
  const zt::attention_shape a{s.batch, s.num_heads, s.q_len, s.kv_len};
  const auto q = random_values<T>(std::size_t(s.batch * s.num_heads * s.q_len * s.head_dim), 1);
  const auto k = random_values<T>(std::size_t(s.batch * s.num_kv_heads * s.kv_len * s.head_dim), 2);
  const auto v = random_values<T>(k.size(), 3);
  const buffer<T> dq(q), dk(k), dv(v), out(q.size());
  const std::size_t bytes =
      std::size_t(zt::attention_workspace_bytes(a, s.num_kv_heads, s.head_dim));
  const buffer<std::byte> workspace(bytes + 16), table(std::size_t(zt::device_table_bytes(a)));
  const zt::backend::cuda backend{};
  using view = zt::tensor_view<T, 4, zt::device_memory>;
  zt::device_attention_options options;
  options.workspace = {workspace.data, {zt::index_t(bytes)}};
  const auto launch = [&](const auto& modifier) {
    zt::attention(backend, view(dq.data, {s.batch, s.num_heads, s.q_len, s.head_dim}),
                  view(dk.data, {s.batch, s.num_kv_heads, s.kv_len, s.head_dim}),
                  view(dv.data, {s.batch, s.num_kv_heads, s.kv_len, s.head_dim}),
                  view(out.data, {s.batch, s.num_heads, s.q_len, s.head_dim}), modifier, options,
                  zt::head_dims<64, 128>{});
  };
  const float gamma = 3.0f;
  const auto sink = zt::to_device(backend, zt::initial_token{gamma}, a,
                                  {table.data, {zt::device_table_bytes(a)}});
  launch(zt::causal{} | sink);
  require(cudaDeviceSynchronize());
  const double error = error_of(s, q, k, v, out.read(), double(gamma));
  if (!(error < 2e-2)) {
    std::printf("%s: WRONG, error %g: not timed\n", s.name, error);
    return 1;
  }
  const double plain = seconds_of([&] { launch(zt::causal{}); });
  const double tuned = seconds_of([&] { launch(zt::causal{} | sink); });
  const double seen = s.q_len > 1 ? 0.5 : 1.0;  // the causal half
  const double flops = 4.0 * double(q.size()) * double(s.kv_len) * seen;
  const double traffic = 2.0 * (2.0 * double(q.size()) + 2.0 * double(k.size()));
  std::printf(
      "%-38s error %.1e  plain %8.1f us  gamma %8.1f us (x %.3f)  %4.1f %% of tensor roof"
      "  %4.1f %% of DRAM roof\n",
      s.name, error, plain * 1e6, tuned * 1e6, tuned / plain, 100 * flops / tuned / roof.flops,
      100 * traffic / tuned / roof.bytes_per_second);
#if defined(ZEROTUNE_BENCHMARK_PEER)
  std::vector<double> ratios;
  for (int i = 0; i < 9; ++i) {
    const double ours = seconds_of([&] { launch(zt::causal{} | sink); }, 5);
    const double peer = seconds_of(
        [&] { zerotune_benchmark_peer(dq.data, dk.data, dv.data, out.data, &s, nullptr); }, 5);
    ratios.push_back(peer / ours);
  }
  std::nth_element(ratios.begin(), ratios.begin() + 4, ratios.end());
  std::printf("%-38s peer / ours: %.3f\n", s.name, ratios[4]);
#endif
  return 0;
}

}  // namespace

int main() {
  if (!has_device()) return 0;
  const roofs roof = measure_roofs();
  std::printf("DRAM %.0f GB/s (copy), tensor cores %.1f TFLOP/s (bfloat16, mma.sync)\n",
              roof.bytes_per_second * 1e-9, roof.flops * 1e-12);
  int failures = 0;
  for (const shape& s : shapes) failures += run(s, roof);
  return failures;
}
