// SPDX-License-Identifier: Apache-2.0
// What correcting the output of a kernel without gamma costs beside that kernel's own time: the
// correction begins with the caches as attention left them.
//
//   benchmark_correction                          ratios, then Google Benchmark's table
//   benchmark_correction --benchmark_filter=none  ratios alone
#include <benchmark/benchmark.h>

#include "attention_case.hpp"
#include "zerotune/apply/decode.hpp"
#include "zerotune/apply/output.hpp"
#include "zerotune/kernel/simd/decode.hpp"

namespace {

namespace zt = zerotune;
using bench::index_t;

constexpr bench::shape shapes[] = {{512, 512, 64, 8, 8},     {512, 512, 128, 8, 8},
                                   {2048, 2048, 64, 8, 8},   {2048, 2048, 128, 8, 8},
                                   {2048, 2048, 128, 32, 8}, {1, 1024, 128, 32, 8},
                                   {1, 4096, 128, 32, 8},    {1, 16384, 128, 32, 8}};

class problem : public bench::attention_case<float> {
 public:
  explicit problem(const bench::shape& s)
      : attention_case(s),
        is_decode_(s.q_len == 1),
        workspace_(static_cast<std::size_t>(zt::attention_decode_workspace_bytes(
            {1, s.heads, s.q_len, s.kv_len}, s.kv_heads, s.head_dim, s.head_dim))) {}

  /// A kernel that knows no gamma.
  void black_box() {
    if (!is_decode_) return run(1.0f);
    zt::attention_decode(zt::backend::simd<>{}, q.read(), k.read(), v.read(), out.view(),
                         zt::causal{}, {.lse = lse_view(), .workspace = zt::view_of(workspace_)});
  }
  void correct() {
    zt::correct_output(zt::backend::simd<>{}, out.view(), lse_view(), q.read(), k.read(), v.read(),
                       zt::causal{} | zt::initial_token{gamma});
  }
  static constexpr float gamma = 3.0f;

 private:
  bool is_decode_;
  std::vector<std::byte> workspace_;
};

bool print_cost(const bench::shape& s) {
  problem p(s);
  std::printf("%s:", s.name().c_str());
  p.black_box();
  p.correct();
  if (!p.check(problem::gamma, bench::tolerance<float>)) {
    std::printf(" WRONG RESULT\n");
    return false;
  }
  bench::ratios r;
  const int rounds = s.q_len >= 2048 ? 9 : 41;
  for (int i = 0; i < rounds; ++i) {
    const double attention = bench::time_of([&] { p.black_box(); }, 1);
    const double correction = bench::time_of([&] { p.correct(); }, 1);
    r.sorted.push_back(100 * correction / attention);
    r.fastest_a = std::min(r.fastest_a, correction);
    r.fastest_b = std::min(r.fastest_b, attention);
  }
  std::sort(r.sorted.begin(), r.sorted.end());
  std::printf(" attention %.1f us, correction %.2f us;", r.fastest_b * 1e6, r.fastest_a * 1e6);
  bench::print_figure("", "correction in percent of attention", r);
  std::printf("\n");
  return true;
}

void register_one(const bench::shape& s) {
  benchmark::RegisterBenchmark(("correct_output/" + s.name()).c_str(),
                               [s](benchmark::State& state) {
                                 problem p(s);
                                 p.black_box();
                                 for (auto _ : state) p.correct();
                               });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  bench::print_roofs();
  std::printf("correct_output after attention, float, one thread: medians [quartiles]\n");
  bool good = true;
  for (const bench::shape& s : shapes) good &= print_cost(s);
  if (!good) return EXIT_FAILURE;
  for (const bench::shape& s : shapes) register_one(s);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
