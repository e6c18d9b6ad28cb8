// SPDX-License-Identifier: Apache-2.0
// The backward pass of fused attention, with the gradients of log gamma, beside its forward pass.
//
//   benchmark_backward                          ratios, then Google Benchmark's table
//   benchmark_backward --benchmark_filter=none  ratios alone
#include <benchmark/benchmark.h>

#include "attention_case.hpp"
#include "zerotune/apply/attention_backward.hpp"

namespace {

namespace zt = zerotune;
using bench::index_t;

constexpr bench::shape shapes[] = {{512, 512, 64, 8, 8},    {512, 512, 128, 8, 8},
                                   {512, 512, 128, 32, 8},  {2048, 2048, 64, 8, 8},
                                   {2048, 2048, 128, 8, 8}, {2048, 2048, 128, 32, 8}};
constexpr float gamma = 3.0f;

class problem : public bench::attention_case<float> {
 public:
  explicit problem(const bench::shape& s)
      : attention_case(s),
        d_out(s.heads, s.q_len, s.head_dim, 6),
        d_q(s.heads, s.q_len, s.head_dim, 7),
        d_k(s.kv_heads, s.kv_len, s.head_dim, 8),
        d_v(s.kv_heads, s.kv_len, s.head_dim, 9),
        shape_(s),
        d_log_gamma_(static_cast<std::size_t>(s.heads)),
        scratch_(static_cast<std::size_t>(
            zt::attention_backward_workspace_bytes(q.read(), k.read(), v.read()))) {}

  void forward() { run(gamma); }
  void backward() {
    zt::attention_backward(
        zt::backend::simd<>{}, q.read(), k.read(), v.read(), out.read(),
        zt::tensor_view<const float, 3>(lse_view()), d_out.read(), d_q.view(), d_k.view(),
        d_v.view(), zt::tensor_view<double, 2>(d_log_gamma_.data(), {1, shape_.heads}),
        zt::causal{} | zt::initial_token{gamma}, {.workspace = zt::view_of(scratch_)});
  }

  /// Gradients against their definition in double, from the forward pass's out and lse: all of
  /// d log gamma, and of the others a first, a middle and a last row of each head.
  bool check_gradients() const {
    bool good = true;
    for (index_t h = 0; h < shape_.heads; ++h) {
      double sum = 0, size = 0;
      for (index_t i = 0; i < shape_.q_len; ++i) {
        const double d = d_logit(h, i, 0);
        sum += d, size += std::abs(d);
      }
      good &= std::abs(d_log_gamma_[static_cast<std::size_t>(h)] - sum) <= 2e-5 * size + 1e-4;
      for (const index_t i : {index_t{1}, shape_.q_len / 3, shape_.q_len - 1})
        good &= check_query(h, i);
    }
    for (index_t h = 0; h < shape_.kv_heads; ++h)
      for (const index_t j : {index_t{0}, shape_.kv_len / 2, shape_.kv_len - 1})
        good &= check_key(h, j);
    return good;
  }

  bench::tensor<float> d_out, d_q, d_k, d_v;

 private:
  double weight(index_t head, index_t i, index_t j) const {
    return std::exp(logit(head, i, j) - lse.at(head, i, 0)) * (j == 0 ? gamma : 1.0);
  }
  /// dL/d logit = P_ij (dO_i . V_j - dO_i . O_i)
  double d_logit(index_t head, index_t i, index_t j) const {
    double sum = 0;
    for (index_t c = 0; c < shape_.head_dim; ++c)
      sum += d_out.at(head, i, c) * (v.at(kv_head(head), j, c) - out.at(head, i, c));
    return weight(head, i, j) * sum;
  }
  /// Sums of n float products differ from those in double by less than this part of their size.
  static bool close(double got, double sum, double size) {
    return std::abs(got - sum) <= 2e-5 * size + 1e-5;
  }

  bool check_query(index_t head, index_t i) const {
    std::vector<double> d(static_cast<std::size_t>(seen(i)));
    for (index_t j = 0; j < seen(i); ++j) d[static_cast<std::size_t>(j)] = d_logit(head, i, j);
    const double scale = 1.0 / std::sqrt(static_cast<double>(shape_.head_dim));
    for (index_t c = 0; c < shape_.head_dim; ++c) {
      double sum = 0, size = 0;
      for (index_t j = 0; j < seen(i); ++j) {
        const double x = d[static_cast<std::size_t>(j)] * k.at(kv_head(head), j, c) * scale;
        sum += x, size += std::abs(x);
      }
      if (!close(d_q.at(head, i, c), sum, size)) return false;
    }
    return true;
  }
  bool check_key(index_t kv, index_t j) const {
    const index_t group = shape_.heads / shape_.kv_heads, before = shape_.kv_len - shape_.q_len;
    const auto dim = static_cast<std::size_t>(shape_.head_dim);
    std::vector<double> key(dim), value(dim), key_size(dim), value_size(dim);
    const double scale = 1.0 / std::sqrt(static_cast<double>(shape_.head_dim));
    for (index_t h = kv * group; h < (kv + 1) * group; ++h)
      for (index_t i = std::max(index_t{0}, j - before); i < shape_.q_len; ++i) {
        const double d = d_logit(h, i, j) * scale, p = weight(h, i, j);
        for (std::size_t c = 0; c < dim; ++c) {
          const double a = d * q.at(h, i, static_cast<index_t>(c));
          const double b = p * d_out.at(h, i, static_cast<index_t>(c));
          key[c] += a, key_size[c] += std::abs(a);
          value[c] += b, value_size[c] += std::abs(b);
        }
      }
    for (std::size_t c = 0; c < dim; ++c)
      if (!close(d_k.at(kv, j, static_cast<index_t>(c)), key[c], key_size[c]) ||
          !close(d_v.at(kv, j, static_cast<index_t>(c)), value[c], value_size[c]))
        return false;
    return true;
  }

  bench::shape shape_;
  std::vector<double> d_log_gamma_;
  std::vector<std::byte> scratch_;
};

bool print_cost(const bench::shape& s) {
  problem p(s);
  std::printf("%s:", s.name().c_str());
  p.forward();
  p.backward();
  if (!p.check(gamma, bench::tolerance<float>) || !p.check_gradients()) {
    std::printf(" WRONG RESULT\n");
    return false;
  }
  const bench::ratios r =
      bench::compare([&] { p.backward(); }, [&] { p.forward(); }, s.q_len >= 2048 ? 5 : 25);
  std::printf(" forward %.0f GFLOP/s, backward %.0f GFLOP/s;", s.flops() / r.fastest_b / 1e9,
              2.5 * s.flops() / r.fastest_a / 1e9);
  bench::print_figure("", "backward / forward", r);
  std::printf("\n");
  return true;
}

void register_one(const bench::shape& s) {
  benchmark::RegisterBenchmark(
      ("attention_backward/" + s.name()).c_str(), [s](benchmark::State& state) {
        problem p(s);
        p.forward();
        for (auto _ : state) p.backward();
        state.counters["FLOP/s"] =
            benchmark::Counter(2.5 * s.flops(), benchmark::Counter::kIsIterationInvariantRate);
      });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  bench::print_roofs();
  std::printf(
      "attention_backward, float, one thread: medians [quartiles] of interleaved samples\n");
  bool good = true;
  for (const bench::shape& s : shapes)
    if (!bench::is_quick() || s.q_len <= 512) good &= print_cost(s);
  if (!good) return EXIT_FAILURE;
  for (const bench::shape& s : shapes) register_one(s);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
