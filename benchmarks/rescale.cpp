// SPDX-License-Identifier: Apache-2.0
// rescale_weights in place beside the in-place-scale roof of the same memory in the same run, a
// naive two-pass loop, the scalar and the Eigen back end. Results are checked before timing.
//
//   benchmark_rescale                          ratios, then Google Benchmark's table
//   benchmark_rescale --benchmark_filter=none  ratios alone
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdlib>

#include "roofs.hpp"
#include "zerotune/apply/weights.hpp"
#include "zerotune/policy/compose.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"
#if __has_include(<Eigen/Core>)
#include "zerotune/kernel/eigen/eigen.hpp"
#define ZEROTUNE_BENCHMARK_EIGEN 1
#else
#define ZEROTUNE_BENCHMARK_EIGEN 0
#endif

namespace {

namespace zt = zerotune;
using zt::index_t;

struct shape {
  index_t heads, q_len, kv_len;
  index_t size() const { return heads * q_len * kv_len; }
};
constexpr shape shapes[] = {{8, 64, 256},    {8, 512, 512},    {32, 512, 512},
                            {8, 2048, 2048}, {32, 2048, 2048}, {32, 1, 4096}};

/// Rows of weights that sum to 1. Calls alternate between gamma and 1 / gamma, so that the
/// contents stay where they are however often they are rescaled.
template <class T>
class rows {
 public:
  explicit rows(const shape& s)
      : shape_(s), memory_(static_cast<std::size_t>(s.size()) * sizeof(T) + 256) {
    fill();
  }
  void fill() {
    for (index_t i = 0; i < shape_.size(); ++i)
      data()[i] = static_cast<T>((i % shape_.kv_len == 0 ? 0.4f : 0.6f) * weight(i % 7));
  }
  float weight(index_t x) const {
    return static_cast<float>(1.0 + 0.25 * static_cast<double>(x)) /
           static_cast<float>(shape_.kv_len);
  }
  T* data() const { return memory_.template as<T>(); }
  std::size_t bytes() const { return static_cast<std::size_t>(shape_.size()) * sizeof(T); }
  zt::tensor_view<T, 4> view() const {
    return {data(), {1, shape_.heads, shape_.q_len, shape_.kv_len}};
  }

  template <class Backend>
  void rescale(Backend backend) {
    zt::rescale_weights(backend, view(), zt::initial_token{next_gamma()});
  }
  void rescale_causal() {
    zt::rescale_weights(zt::backend::simd<>{}, view(),
                        zt::causal{} | zt::initial_token{next_gamma()});
  }
  /// What a host would write without thinking: scale the column, sum, divide.
  void naive() {
    const float gamma = next_gamma();
    for (index_t r = 0; r < shape_.heads * shape_.q_len; ++r) {
      T* const p = data() + r * shape_.kv_len;
      p[0] = static_cast<T>(static_cast<float>(p[0]) * gamma);
      float sum = 0;
      for (index_t i = 0; i < shape_.kv_len; ++i) sum += static_cast<float>(p[i]);
      for (index_t i = 0; i < shape_.kv_len; ++i)
        p[i] = static_cast<T>(static_cast<float>(p[i]) / sum);
    }
  }

  /// Rescales once and compares with the formula in double. @return false beyond rounding
  bool check(bool causal) {
    fill();
    const std::vector<T> before(data(), data() + shape_.size());
    flip_ = false;
    if (causal)
      rescale_causal();
    else
      rescale(zt::backend::simd<>{});
    const double rounding = sizeof(T) == 4 ? 1e-6 : std::is_same_v<T, zt::float16> ? 1e-3 : 8e-3;
    bool good = true;
    for (index_t r = 0; r < shape_.heads * shape_.q_len; ++r) {
      const index_t q_pos = shape_.kv_len - shape_.q_len + r % shape_.q_len;
      const index_t seen = causal ? q_pos + 1 : shape_.kv_len;
      const T* const from = before.data() + r * shape_.kv_len;
      const auto at = [](T x) { return static_cast<double>(static_cast<float>(x)); };
      double sum = 0;
      for (index_t i = 0; i < seen; ++i) sum += at(from[i]);
      const double d = seen == 1 ? 2.0 : (sum + at(from[0])) / sum;  // gamma = 2
      for (index_t i = 0; i < shape_.kv_len; ++i) {
        const double scaled = at(from[i]) * (i == 0 ? 2 : 1) / d;
        const double expected = i < seen ? scaled : at(from[i]);
        const double got = at(data()[r * shape_.kv_len + i]);
        // A weight below the least normal float16 rounds to a multiple of 2^-24.
        good &= std::abs(got - expected) <= rounding * expected + 6e-8;
      }
    }
    fill();
    return good;
  }

 private:
  float next_gamma() { return (flip_ = !flip_) ? 2.0f : 0.5f; }

  shape shape_;
  bench::memory memory_;
  bool flip_ = false;
};

template <class T>
const char* type_name() {
  return std::is_same_v<T, float>         ? "float"
         : std::is_same_v<T, zt::float16> ? "float16"
                                          : "bfloat16";
}

/// One line: the share of the roof, and how much slower the others are.
template <class T>
bool print_shares(const shape& s) {
  rows<T> r(s);
  if (!r.check(false) || !r.check(true)) {
    std::printf("%s [1,%d,%d,%d]: WRONG RESULT\n", type_name<T>(), static_cast<int>(s.heads),
                static_cast<int>(s.q_len), static_cast<int>(s.kv_len));
    return false;
  }
  const auto roof = [&] { bench::scale_in_place(r.data(), r.bytes()); };
  const auto ours = [&] { r.rescale(zt::backend::simd<>{}); };
  const int rounds = s.size() > (1 << 24) ? 9 : 41;
  const bench::ratios share = bench::compare(roof, ours, rounds);
  std::printf("%-8s [1,%2d,%4d,%4d] %6.1f GB/s, share of the roof ", type_name<T>(),
              static_cast<int>(s.heads), static_cast<int>(s.q_len), static_cast<int>(s.kv_len),
              2.0 * static_cast<double>(r.bytes()) / share.fastest_b / 1e9);
  bench::print_ratio(share);
  if (s.q_len == s.kv_len) {
    std::printf(", causal / roof ");
    bench::print_ratio(bench::compare(
        roof, [&] { r.rescale_causal(); }, rounds));
  }
  const int few = s.size() > (1 << 24) ? 3 : 9;
  std::printf(", times ours: naive %.1f", bench::compare([&] { r.naive(); }, ours, few).median());
  r.fill();
  std::printf(", scalar %.1f",
              bench::compare([&] { r.rescale(zt::backend::scalar{}); }, ours, few).median());
#if ZEROTUNE_BENCHMARK_EIGEN
  if constexpr (std::is_same_v<T, float>)
    std::printf(", Eigen %.1f",
                bench::compare([&] { r.rescale(zt::backend::eigen{}); }, ours, few).median());
#endif
  std::printf("\n");
  std::fflush(stdout);
  return true;
}

template <class T, class Body>
void register_one(const std::string& name, const shape& s, const Body& body) {
  benchmark::RegisterBenchmark(
      (name + "/" + type_name<T>() + "/" + std::to_string(s.heads) + "x" + std::to_string(s.q_len) +
       "x" + std::to_string(s.kv_len))
          .c_str(),
      [s, body](benchmark::State& state) {
        rows<T> r(s);
        for (auto _ : state) body(r);
        state.SetBytesProcessed(static_cast<std::int64_t>(2 * r.bytes()) * state.iterations());
      });
}

template <class T>
void register_all() {
  for (const shape& s : shapes) {
    register_one<T>("roof", s, [](rows<T>& r) { bench::scale_in_place(r.data(), r.bytes()); });
    register_one<T>("simd", s, [](rows<T>& r) { r.rescale(zt::backend::simd<>{}); });
    register_one<T>("simd_causal", s, [](rows<T>& r) { r.rescale_causal(); });
    register_one<T>("naive", s, [](rows<T>& r) { r.naive(); });
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  bench::print_roofs();
  std::printf("rescale_weights in place, one thread: medians [quartiles] of interleaved ratios\n");
  bool good = true;
  for (const shape& s : shapes) good &= print_shares<float>(s);
  for (const shape& s : shapes) good &= print_shares<zt::float16>(s);
  for (const shape& s : shapes) good &= print_shares<zt::bfloat16>(s);
  if (!good) return EXIT_FAILURE;
  register_all<float>();
  register_all<zt::float16>();
  register_all<zt::bfloat16>();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
