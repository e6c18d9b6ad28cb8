// SPDX-License-Identifier: Apache-2.0
// What a modifier costs: attention with initial_token beside identity, and beside itself (the
// noise), per shape, and with a user's bias that changes every logit; and rescale_weights with
// gamma = 1, which must cost nothing.
//
//   benchmark_modifier                          ratios, then Google Benchmark's table
//   benchmark_modifier --benchmark_filter=none  ratios alone
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "roofs.hpp"
#include "zerotune/apply/attention.hpp"
#include "zerotune/apply/weights.hpp"
#include "zerotune/policy/compose.hpp"
#include "zerotune/policy/identity.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"

namespace {

namespace zt = zerotune;
using zt::index_t;

struct shape {
  index_t q_len, kv_len, head_dim, heads, kv_heads;
  double flops() const {
    double keys = 0;  // that the queries see, causally
    for (index_t i = 0; i < q_len; ++i) keys += static_cast<double>(kv_len - q_len + i + 1);
    return 4.0 * static_cast<double>(heads * head_dim) * keys;
  }
};
constexpr shape shapes[] = {{512, 512, 64, 8, 8},    {512, 512, 128, 8, 8}, {2048, 2048, 64, 8, 8},
                            {2048, 2048, 128, 8, 8}, {1, 1024, 128, 32, 8}, {1, 4096, 128, 32, 8}};

/// A modifier as a user writes it: a bias that falls with the distance, slower and slower.
struct distance_bias {
  float strength;
  template <class Batch>
  Batch log_bias(zt::row r, Batch kv_pos) const {
    using real = zt::impl::value_of<Batch>;
    const Batch distance = Batch(static_cast<real>(r.q_pos)) - kv_pos, one(real(1));
    return Batch(real(-strength)) * distance / (distance + one + one);
  }
  zt::tile_effect effect(int, zt::range, zt::range) const { return zt::tile_effect::apply; }
};

class problem {
 public:
  explicit problem(const shape& s)
      : shape_(s),
        q_(numbers(s.heads * s.q_len * s.head_dim, 1)),
        k_(numbers(s.kv_heads * s.kv_len * s.head_dim, 2)),
        v_(numbers(s.kv_heads * s.kv_len * s.head_dim, 3)),
        out_(static_cast<std::size_t>(s.heads * s.q_len * s.head_dim)) {
    options_.plan = zt::plan_attention();
    workspace_.resize(static_cast<std::size_t>(zt::attention_workspace_bytes(
        zt::backend::simd<>{}, view(q_, s.heads, s.q_len), view(k_, s.kv_heads, s.kv_len),
        view(v_, s.kv_heads, s.kv_len), output(), options_.plan)));
    if (!workspace_.empty()) options_.workspace = zt::view_of(workspace_);
  }

  template <class Backend, class Modifier>
  void run(Backend backend, const Modifier& m) {
    zt::attention(backend, view(q_, shape_.heads, shape_.q_len),
                  view(k_, shape_.kv_heads, shape_.kv_len),
                  view(v_, shape_.kv_heads, shape_.kv_len), output(), m, options_);
  }
  /// Against the scalar reference: the first and the last row of each head.
  bool check() {
    run(zt::backend::simd<>{}, zt::causal{} | zt::initial_token{3.0f});
    const std::vector<float> fast = out_;
    run(zt::backend::scalar{}, zt::causal{} | zt::initial_token{3.0f});
    for (std::size_t i = 0; i < fast.size(); ++i)
      if (!(std::abs(fast[i] - out_[i]) <= 1e-5f)) return false;
    return true;
  }
  /// gamma = 1 must change no bit.
  bool check_identity() {
    run(zt::backend::simd<>{}, zt::causal{} | zt::initial_token{1.0f});
    const std::vector<float> one = out_;
    run(zt::backend::simd<>{}, zt::causal{} | zt::identity{});
    return std::memcmp(one.data(), out_.data(), one.size() * sizeof(float)) == 0;
  }

 private:
  zt::tensor_view<const float, 4> view(const std::vector<float>& x, index_t heads,
                                       index_t rows) const {
    return {x.data(), {1, heads, rows, shape_.head_dim}};
  }
  zt::tensor_view<float, 4> output() {
    return {out_.data(), {1, shape_.heads, shape_.q_len, shape_.head_dim}};
  }
  static std::vector<float> numbers(index_t count, std::uint64_t state) {
    std::vector<float> x(static_cast<std::size_t>(count));
    for (float& value : x) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      value = static_cast<float>(static_cast<std::int64_t>(state >> 40)) / 0x1p22f - 2.0f;
    }
    return x;
  }

  shape shape_;
  std::vector<float> q_, k_, v_, out_;
  zt::attention_options<float> options_;
  std::vector<std::byte> workspace_;
};

bool print_cost(const shape& s) {
  problem p(s);
  std::printf("[%4d,%4d] d=%3d heads %2d/%d: ", static_cast<int>(s.q_len),
              static_cast<int>(s.kv_len), static_cast<int>(s.head_dim), static_cast<int>(s.heads),
              static_cast<int>(s.kv_heads));
  if ((s.q_len < 2048 && !p.check()) || !p.check_identity()) {
    std::printf("WRONG RESULT\n");
    return false;
  }
  const auto plain = [&] { p.run(zt::backend::simd<>{}, zt::causal{} | zt::identity{}); };
  const auto same = [&] { p.run(zt::backend::simd<>{}, zt::causal{} | zt::identity{}); };
  const auto sink = [&] { p.run(zt::backend::simd<>{}, zt::causal{} | zt::initial_token{2.0f}); };
  const int rounds = s.q_len == 2048 ? 7 : 25;
  const bench::ratios cost = bench::compare(sink, plain, rounds);
  const bench::ratios noise = bench::compare(same, plain, rounds);
  const auto bias = [&] { p.run(zt::backend::simd<>{}, zt::causal{} | distance_bias{1.0f}); };
  const bench::ratios everywhere = bench::compare(bias, plain, rounds);
  std::printf("%6.1f GFLOP/s; initial_token / identity ", s.flops() / cost.fastest_a / 1e9);
  bench::print_ratio(cost);
  std::printf("; identity / identity ");
  bench::print_ratio(noise);
  std::printf("; a bias on every logit ");
  bench::print_ratio(everywhere);
  std::printf("\n");
  std::fflush(stdout);
  return true;
}

void print_untouched() {
  const index_t heads = 8, rows = 512, keys = 512;
  const bench::memory memory(static_cast<std::size_t>(heads * rows * keys) * sizeof(float));
  const zt::tensor_view<float, 4> weights(memory.as<float>(), {1, heads, rows, keys});
  const bench::ratios r = bench::compare(
      [&] { zt::rescale_weights(zt::backend::simd<>{}, weights, zt::initial_token{1.0f}); },
      [&] { bench::scale_in_place(weights.data(), static_cast<std::size_t>(weights.size()) * 4); });
  std::printf("rescale_weights [1,8,512,512] with gamma = 1: %.1f us; time / in-place roof ",
              r.fastest_a * 1e6);
  bench::print_ratio(r);
  std::printf("\n");
}

template <class Modifier>
void register_one(const char* name, const shape& s, const Modifier& m) {
  benchmark::RegisterBenchmark(("attention/" + std::string(name) + "/" + std::to_string(s.q_len) +
                                "x" + std::to_string(s.kv_len) + "x" + std::to_string(s.head_dim))
                                   .c_str(),
                               [s, m](benchmark::State& state) {
                                 problem p(s);
                                 for (auto _ : state) p.run(zt::backend::simd<>{}, m);
                                 state.counters["FLOP/s"] = benchmark::Counter(
                                     s.flops(), benchmark::Counter::kIsIterationInvariantRate);
                               });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  bench::print_roofs();
  std::printf("time ratios, one thread: medians [quartiles] of interleaved samples\n");
  bool good = true;
  for (const shape& s : shapes) good &= print_cost(s);
  print_untouched();
  if (!good) return EXIT_FAILURE;
  for (const shape& s : shapes) {
    register_one("identity", s, zt::causal{} | zt::identity{});
    register_one("initial_token", s, zt::causal{} | zt::initial_token{2.0f});
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
