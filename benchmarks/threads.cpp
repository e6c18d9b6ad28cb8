// SPDX-License-Identifier: Apache-2.0
// Several threads: prefill and the backward pass beside one thread, decode beside a plain sum over
// the same memory by as many threads. Times that pass, not those of one thread.
//
//   benchmark_threads                          ratios, then Google Benchmark's table
//   benchmark_threads --benchmark_filter=none  ratios alone
#include <benchmark/benchmark.h>

#include <thread>

#include "attention_case.hpp"
#include "zerotune/apply/decode.hpp"
#include "zerotune/core/thread_pool.hpp"
#include "zerotune/kernel/simd/decode.hpp"

namespace {

namespace zt = zerotune;
using bench::index_t;

constexpr bench::shape prefills[] = {
    {512, 512, 64, 8, 8}, {512, 512, 128, 8, 8}, {2048, 2048, 128, 8, 8}, {2048, 2048, 128, 32, 8}};
constexpr index_t cache_lengths[] = {4096, 16384, 65536};
constexpr float gamma = 3.0f;

template <class T>
bool print_prefill(const char* type, const bench::shape& s, zt::thread_pool& pool) {
  const bench::attention_case<T> p(s, pool.num_threads());
  std::printf("%d threads, prefill %s %s:", pool.num_threads(), type, s.name().c_str());
  p.run(gamma, pool);
  if (!p.check(gamma, bench::tolerance<T>)) {
    std::printf(" WRONG RESULT\n");
    return false;
  }
  const bench::ratios r = bench::compare([&] { p.run(gamma); }, [&] { p.run(gamma, pool); },
                                         s.q_len >= 2048 ? 7 : 25, 4e-3, bench::wall_now, 1);
  std::printf(" %.0f and %.0f GFLOP/s;", s.flops() / r.fastest_a / 1e9,
              s.flops() / r.fastest_b / 1e9);
  bench::print_figure("", "one thread / all", r);
  std::printf("\n");
  return true;
}

template <class T>
bool print_decode(const char* type, index_t kv_len, zt::thread_pool& pool) {
  const bench::shape s{1, kv_len, 128, 32, 8};
  const bench::attention_case<T> p(s);
  std::vector<std::byte> workspace(static_cast<std::size_t>(zt::attention_decode_workspace_bytes(
      {1, s.heads, 1, kv_len}, s.kv_heads, s.head_dim, s.head_dim)));
  const auto run = [&](auto&& executor) {
    zt::attention_decode(zt::backend::simd<>{}, p.q.read(), p.k.read(), p.v.read(), p.out.view(),
                         zt::causal{} | zt::initial_token{gamma},
                         {.lse = p.lse_view(), .workspace = zt::view_of(workspace)}, executor);
  };
  const auto read = [&](index_t threads) {
    // As many parts of K and of V as there are heads: small enough that no thread waits for long.
    const auto part = [&](index_t i) {
      const auto& half = i % 2 ? p.v : p.k;
      const std::size_t bytes = half.bytes() / 8;
      bench::read_all(
          reinterpret_cast<const char*>(half.data()) + static_cast<std::size_t>(i / 2) * bytes,
          bytes);
    };
    if (threads > 1)
      pool.parallel_for(16, part);
    else
      for (index_t i = 0; i < 16; ++i) part(i);
  };
  std::printf("%d threads, decode %s %s:", pool.num_threads(), type, s.name().c_str());
  run(pool);
  if (!p.check(gamma, bench::tolerance<T>)) {
    std::printf(" WRONG RESULT\n");
    return false;
  }
  const int rounds = kv_len > 16384 ? 9 : 25;
  const double bytes = static_cast<double>(2 * p.k.bytes());
  const bench::ratios share =
      bench::compare([&] { read(2); }, [&] { run(pool); }, rounds, 4e-3, bench::wall_now, 1);
  const bench::ratios gain = bench::compare([&] { run(zt::serial_executor{}); }, [&] { run(pool); },
                                            rounds, 4e-3, bench::wall_now, 1);
  const bench::ratios roof =
      bench::compare([&] { read(1); }, [&] { read(2); }, rounds, 4e-3, bench::wall_now, 1);
  std::printf(" %.1f GB/s of %.1f;", bytes / share.fastest_b / 1e9, bytes / share.fastest_a / 1e9);
  bench::print_figure("", "share of the read roof of all", share);
  bench::print_figure(";", "one thread / all", gain);
  bench::print_figure(";", "read by one / by all", roof);
  std::printf("\n");
  return true;
}

void register_one(const bench::shape& s, int threads) {
  benchmark::RegisterBenchmark(("prefill/" + s.name()).c_str(), [s,
                                                                 threads](benchmark::State& state) {
    zt::thread_pool pool(threads);
    const bench::attention_case<float> p(s, threads);
    for (auto _ : state) p.run(gamma, pool);
    state.counters["FLOP/s"] =
        benchmark::Counter(s.flops(), benchmark::Counter::kIsIterationInvariantRate);
  })->UseRealTime();
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  bench::print_roofs();
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  if (cores < 2) {
    std::printf("one core: nothing to compare\n");
    return EXIT_SUCCESS;
  }
  std::printf("threads: medians [quartiles] of interleaved samples of the time that passes\n");
  bool good = true;
  for (int threads = 2; threads <= cores; threads *= 2) {
    zt::thread_pool pool(threads);
    for (const bench::shape& s : prefills) {
      good &= print_prefill<float>("f32", s, pool);
      good &= print_prefill<zt::bfloat16>("bf16", s, pool);
    }
    for (const index_t kv_len : cache_lengths) {
      good &= print_decode<float>("f32", kv_len, pool);
      good &= print_decode<zt::bfloat16>("bf16", kv_len, pool);
    }
  }
  if (!good) return EXIT_FAILURE;
  for (const bench::shape& s : prefills) register_one(s, cores);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
