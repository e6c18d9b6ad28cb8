// SPDX-License-Identifier: Apache-2.0
// Speed over the length, 128 to 16384: the FLOP/s of prefill must not fall, the time of a step of
// decode must grow with the keys.
//
//   benchmark_scaling                          figures, then Google Benchmark's table
//   benchmark_scaling --benchmark_filter=none  figures alone
#include <benchmark/benchmark.h>

#include "attention_case.hpp"
#include "zerotune/apply/decode.hpp"
#include "zerotune/kernel/simd/decode.hpp"

namespace {

namespace zt = zerotune;
using bench::index_t;

constexpr index_t lengths[] = {128, 256, 512, 1024, 2048, 4096, 8192, 16384};
constexpr float gamma = 3.0f;

/// Two heads: 16384 positions take seconds with more.
bench::shape prefill_shape(index_t length, index_t head_dim) {
  return {length, length, head_dim, 2, 2};
}

template <class T>
bool print_prefill(const char* type, index_t length, index_t head_dim) {
  const bench::shape s = prefill_shape(length, head_dim);
  const bench::attention_case<T> p(s);
  std::printf("prefill %s %s:", type, s.name().c_str());
  p.run(gamma);
  if (!p.check(gamma, bench::tolerance<T>)) {
    std::printf(" WRONG RESULT\n");
    return false;
  }
  // Multiply-adds in samples as long as attention's, so that both are interrupted as often.
  constexpr int count = 2000;
  constexpr double chains = bench::vector_bytes >= 64 ? 24 : 12;  // of multiply_add_many
  constexpr double flops = 2.0 * chains * (bench::vector_bytes / 4) * count;
  const int calls = std::max(1, static_cast<int>(s.flops() / flops / 2));
  bench::ratios r = bench::compare(
      [&] {
        for (int i = 0; i < calls; ++i) bench::multiply_add_many(count);
      },
      [&] { p.run(gamma); },
      length >= 16384  ? 1
      : length >= 4096 ? 3
                       : 15);
  for (double& x : r.sorted) x *= s.flops() / (flops * calls);
  std::printf(" %.1f GFLOP/s;", s.flops() / r.fastest_b / 1e9);
  bench::print_figure("", "share of the multiply-add roof", r);
  std::printf("\n");
  return true;
}

template <class T>
bool print_decode(const char* type, index_t kv_len) {
  const bench::shape s{1, kv_len, 128, 32, 8};
  const bench::attention_case<T> p(s);
  std::vector<std::byte> workspace(static_cast<std::size_t>(zt::attention_decode_workspace_bytes(
      {1, s.heads, 1, kv_len}, s.kv_heads, s.head_dim, s.head_dim)));
  const auto run = [&] {
    zt::attention_decode(zt::backend::simd<>{}, p.q.read(), p.k.read(), p.v.read(), p.out.view(),
                         zt::causal{} | zt::initial_token{gamma},
                         {.lse = p.lse_view(), .workspace = zt::view_of(workspace)});
  };
  const auto read = [&] {
    bench::read_all(p.k.data(), p.k.bytes());
    bench::read_all(p.v.data(), p.v.bytes());
  };
  std::printf("decode %s %s:", type, s.name().c_str());
  run();
  if (!p.check(gamma, bench::tolerance<T>)) {
    std::printf(" WRONG RESULT\n");
    return false;
  }
  const bench::ratios r = bench::compare(read, run, kv_len >= 8192 ? 9 : 25);
  const double bytes = static_cast<double>(2 * p.k.bytes());
  std::printf(" %.1f GB/s of %.1f, %.2f ns a key;", bytes / r.fastest_b / 1e9,
              bytes / r.fastest_a / 1e9, r.fastest_b * 1e9 / static_cast<double>(kv_len));
  bench::print_figure("", "share of the read roof", r);
  std::printf("\n");
  return true;
}

void register_one(index_t length) {
  const bench::shape s = prefill_shape(length, 128);
  benchmark::RegisterBenchmark(("prefill/" + s.name()).c_str(), [s](benchmark::State& state) {
    const bench::attention_case<float> p(s);
    for (auto _ : state) p.run(gamma);
    state.counters["FLOP/s"] =
        benchmark::Counter(s.flops(), benchmark::Counter::kIsIterationInvariantRate);
  });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  bench::print_roofs();
  std::printf("scaling over the length, one thread: medians [quartiles]\n");
  bool good = true;
  for (const index_t length : lengths) {
    if (bench::is_quick() && length > 2048) break;
    good &= print_prefill<float>("f32", length, 128);
    good &= print_prefill<float>("f32", length, 64);
    good &= print_prefill<zt::bfloat16>("bf16", length, 128);
    good &= print_decode<float>("f32", length);
    good &= print_decode<zt::bfloat16>("bf16", length);
  }
  if (!good) return EXIT_FAILURE;
  for (const index_t length : lengths) register_one(length);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
