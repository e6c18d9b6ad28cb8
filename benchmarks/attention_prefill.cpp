// SPDX-License-Identifier: Apache-2.0
// Prefill: causal fused attention as a share of the roof of multiply-adds, bfloat16 also of that of
// dot products where it takes them, and bfloat16 and float16 beside float, per shape.
//
//   benchmark_attention_prefill                          ratios, then Google Benchmark's table
//   benchmark_attention_prefill --benchmark_filter=none  ratios alone
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdlib>

#include "roofs.hpp"
#include "zerotune/apply/attention.hpp"
#include "zerotune/policy/compose.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"

namespace {

namespace zt = zerotune;
using zt::index_t;

struct shape {
  index_t length, head_dim, heads, kv_heads;
  double flops() const {
    const auto n = static_cast<double>(length);
    return 4.0 * static_cast<double>(heads * head_dim) * n * (n + 1) / 2;
  }
};
constexpr shape shapes[] = {{512, 64, 8, 8},  {512, 128, 8, 8},  {512, 128, 32, 8},
                            {2048, 64, 8, 8}, {2048, 128, 8, 8}, {2048, 128, 32, 8},
                            {4096, 64, 8, 8}, {4096, 128, 8, 8}};

template <class T>
class problem {
 public:
  using acc = zt::accumulator_t<T>;
  explicit problem(const shape& s)
      : shape_(s),
        q_(bytes(s.heads)),
        k_(bytes(s.kv_heads)),
        v_(bytes(s.kv_heads)),
        out_(bytes(s.heads)),
        plan_(zt::plan_attention()),
        workspace_(static_cast<std::size_t>(zt::attention_workspace_bytes(
            zt::backend::simd<>{}, view<const T>(q_, s.heads), view<const T>(k_, s.kv_heads),
            view<const T>(v_, s.kv_heads), view<T>(out_, s.heads), plan_))) {
    std::uint64_t state = 1;
    for (bench::memory* const m : {&q_, &k_, &v_}) {
      const index_t heads = m == &q_ ? s.heads : s.kv_heads;
      for (index_t i = 0; i < heads * s.length * s.head_dim; ++i) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        const auto number = static_cast<std::int64_t>(state >> 40);
        m->as<T>()[i] = static_cast<T>(static_cast<float>(number) / 0x1p22f - 2.0f);
      }
    }
  }

  template <class Backend>
  void run(Backend backend) {
    zt::attention_options<acc> options;
    options.plan = plan_;
    options.workspace = zt::view_of(workspace_);
    zt::attention(backend, view<const T>(q_, shape_.heads), view<const T>(k_, shape_.kv_heads),
                  view<const T>(v_, shape_.kv_heads), view<T>(out_, shape_.heads),
                  zt::causal{} | zt::initial_token{3.0f}, options);
  }

  /// Against the same in double: the first, the last and some middle row of each head.
  bool check() {
    run(zt::backend::simd<>{});
    for (index_t h = 0; h < shape_.heads; ++h)
      for (const index_t i : {index_t{0}, shape_.length / 3, shape_.length - 1})
        if (!check_row(h, i)) return false;
    return true;
  }

 private:
  bool check_row(index_t head, index_t i) const {
    const index_t kv_head = head / (shape_.heads / shape_.kv_heads), d = shape_.head_dim;
    const auto at = [&](const bench::memory& m, index_t h, index_t row, index_t c) {
      return static_cast<double>(static_cast<acc>(m.as<T>()[(h * shape_.length + row) * d + c]));
    };
    std::vector<double> out(static_cast<std::size_t>(d));
    double sum = 0, maximum = -1e300;
    for (index_t j = 0; j <= i; ++j) {
      double logit = j == 0 ? std::log(3.0) : 0;
      for (index_t c = 0; c < d; ++c)
        logit += at(q_, head, i, c) * at(k_, kv_head, j, c) / std::sqrt(static_cast<double>(d));
      const double shrink = logit > maximum ? std::exp(maximum - logit) : 1;
      maximum = std::max(maximum, logit);
      const double weight = std::exp(logit - maximum);
      sum = sum * shrink + weight;
      for (index_t c = 0; c < d; ++c) {
        double& o = out[static_cast<std::size_t>(c)];
        o = o * shrink + weight * at(v_, kv_head, j, c);
      }
    }
    constexpr double tolerance = std::is_same_v<T, float> ? 2e-5 : 2e-2;
    for (index_t c = 0; c < d; ++c)
      if (!(std::abs(at(out_, head, i, c) - out[static_cast<std::size_t>(c)] / sum) <= tolerance))
        return false;
    return true;
  }

  std::size_t bytes(index_t heads) const {
    return static_cast<std::size_t>(heads * shape_.length * shape_.head_dim) * sizeof(T);
  }
  template <class U>
  zt::tensor_view<U, 4> view(const bench::memory& m, index_t heads) const {
    return {m.as<T>(), {1, heads, shape_.length, shape_.head_dim}};
  }

  shape shape_;
  bench::memory q_, k_, v_, out_;
  zt::attention_plan plan_;
  std::vector<std::byte> workspace_;
};

/// The share of a roof, measured in samples as long as attention's: both are interrupted as often.
template <class T>
void print_roof_share(const shape& s, problem<T>& p, void (*roof)(int), double flops, int rounds) {
  constexpr int count = 20000;
  const int calls = std::max(1, static_cast<int>(s.flops() / (flops * count) / 2));
  const bench::ratios r = bench::compare(
      [&] {
        for (int i = 0; i < calls; ++i) roof(count);
      },
      [&] { p.run(zt::backend::simd<>{}); }, rounds);
  const double scale = s.flops() / (flops * count * calls);
  std::printf("%.0f GFLOP/s, share of the ", s.flops() / r.fastest_b / 1e9);
  std::printf("%s %.3f [%.3f, %.3f]", roof == bench::dot_many ? "dot roof" : "roof",
              r.median() * scale, r.at(0.25) * scale, r.at(0.75) * scale);
}

template <class T>
bool print_half(const char* name, const shape& s, problem<float>& full, int rounds) {
  problem<T> half(s);
  if (!half.check()) {
    std::printf("%s WRONG RESULT\n", name);
    return false;
  }
  const bench::ratios r = bench::compare([&] { full.run(zt::backend::simd<>{}); },
                                         [&] { half.run(zt::backend::simd<>{}); }, rounds);
  std::printf("; %s %.0f GFLOP/s, float / %s ", name, s.flops() / r.fastest_b / 1e9, name);
  bench::print_ratio(r);
  if (std::is_same_v<T, zt::bfloat16> && bench::has_dots()) {
    std::printf(", ");
    print_roof_share(s, half, bench::dot_many, bench::flops_of_dots, rounds);
  }
  return true;
}

bool print_share(const shape& s) {
  problem<float> p(s);
  std::printf("[%4d] d=%3d heads %2d/%d: ", static_cast<int>(s.length),
              static_cast<int>(s.head_dim), static_cast<int>(s.heads),
              static_cast<int>(s.kv_heads));
  if (!p.check()) {
    std::printf("WRONG RESULT\n");
    return false;
  }
  const int rounds = s.length >= 4096 ? 3 : s.length >= 2048 ? 7 : 25;
  std::printf("float ");
  print_roof_share(s, p, bench::multiply_add_many, bench::flops_of_multiply_adds, rounds);
  const bool good = print_half<zt::bfloat16>("bfloat16", s, p, rounds) &&
                    print_half<zt::float16>("float16", s, p, rounds);
  std::printf("\n");
  std::fflush(stdout);
  return good;
}

template <class T>
void register_one(const char* name, const shape& s) {
  const std::string title = std::string("prefill/") + name + "/" + std::to_string(s.length) + "x" +
                            std::to_string(s.head_dim) + "x" + std::to_string(s.heads) + "x" +
                            std::to_string(s.kv_heads);
  benchmark::RegisterBenchmark(title.c_str(), [s](benchmark::State& state) {
    problem<T> p(s);
    for (auto _ : state) p.run(zt::backend::simd<>{});
    state.counters["FLOP/s"] =
        benchmark::Counter(s.flops(), benchmark::Counter::kIsIterationInvariantRate);
  });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  bench::print_roofs();
  std::printf("one thread: medians [quartiles] of interleaved samples\n");
  bool good = true;
  for (const shape& s : shapes) good &= print_share(s);
  if (!good) return EXIT_FAILURE;
  for (const shape& s : shapes) {
    register_one<float>("float", s);
    register_one<zt::bfloat16>("bfloat16", s);
    register_one<zt::float16>("float16", s);
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
