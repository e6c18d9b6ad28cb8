// SPDX-License-Identifier: Apache-2.0
// What a host can do with a matrix library alone, as a multiple of zerotune's time: Q K^T, a
// softmax in our own vectors, and its product with V, by blocks of queries so that half of the
// causal work is skipped. With OpenBLAS and oneDNN, whichever are there.
//
//   benchmark_products                          ratios, then Google Benchmark's table
//   benchmark_products --benchmark_filter=none  ratios alone
#include <benchmark/benchmark.h>
#if defined(ZEROTUNE_BENCHMARK_OPENBLAS)
#include <cblas.h>
#endif
#if defined(ZEROTUNE_BENCHMARK_ONEDNN)
#include <oneapi/dnnl/dnnl.h>
#endif

#include "../attention_case.hpp"
#include "zerotune/kernel/simd/exp.hpp"

namespace {

namespace zt = zerotune;
using bench::index_t;

constexpr bench::shape shapes[] = {{512, 512, 64, 8, 8},    {512, 512, 128, 8, 8},
                                   {512, 512, 128, 32, 8},  {2048, 2048, 64, 8, 8},
                                   {2048, 2048, 128, 8, 8}, {4096, 4096, 128, 8, 8}};
constexpr float gamma = 3.0f;
constexpr index_t block = 256;  // queries whose logits lie in memory at once

/// c [rows, columns] = scale a [rows, depth] b, all row-major; b is [columns, depth] if transposed,
/// else [depth, columns].
struct product {
  index_t rows, columns, depth;
  float scale;
  const float *a, *b;
  float* c;
  index_t a_row, b_row, c_row;
  bool transposed;
};

#if defined(ZEROTUNE_BENCHMARK_OPENBLAS)
struct openblas {
  static constexpr const char* name = "OpenBLAS";
  static bool start() {
    openblas_set_num_threads(1);
    return true;
  }
  static void multiply(const product& p) {
    const auto n = [](index_t x) { return static_cast<blasint>(x); };
    cblas_sgemm(CblasRowMajor, CblasNoTrans, p.transposed ? CblasTrans : CblasNoTrans, n(p.rows),
                n(p.columns), n(p.depth), p.scale, p.a, n(p.a_row), p.b, n(p.b_row), 0.0f, p.c,
                n(p.c_row));
  }
};
#endif

#if defined(ZEROTUNE_BENCHMARK_ONEDNN)
/// Its threads are OpenMP's: OMP_NUM_THREADS=1.
struct onednn {
  static constexpr const char* name = "oneDNN";
  static bool start() {
    const char* const threads = std::getenv("OMP_NUM_THREADS");
    if (threads && std::string(threads) == "1") return true;
    std::printf("oneDNN skipped: it needs OMP_NUM_THREADS=1 in the environment\n");
    return false;
  }
  static void multiply(const product& p) {
    dnnl_sgemm('N', p.transposed ? 'T' : 'N', p.rows, p.columns, p.depth, p.scale, p.a, p.a_row,
               p.b, p.b_row, 0.0f, p.c, p.c_row);
  }
};
#endif

/// weights = softmax(logits) of the first `seen` numbers, zeros up to `count`.
void softmax(float* row, index_t seen, index_t count) {
  using batch = zt::impl::batch<float, void>;
  constexpr auto lanes = static_cast<index_t>(batch::size);
  row[0] += std::log(gamma);
  for (index_t j = seen; j < count; ++j) row[j] = -1e30f;
  batch greatest(-1e30f), sum(0.0f);
  for (index_t j = 0; j < count; j += lanes)
    greatest = xsimd::max(greatest, batch::load_unaligned(row + j));
  const batch maximum(zt::impl::maximum_of_lanes(greatest));
  for (index_t j = 0; j < count; j += lanes) {
    const batch weight =
        zt::impl::exp2_of((batch::load_unaligned(row + j) - maximum) * batch(1.44269504f));
    weight.store_unaligned(row + j);
    sum += weight;
  }
  const batch factor(1.0f / zt::impl::sum_of_lanes(sum));
  for (index_t j = 0; j < count; j += lanes)
    (batch::load_unaligned(row + j) * factor).store_unaligned(row + j);
}

template <class Library>
class attention_by_products {
 public:
  explicit attention_by_products(const bench::shape& s)
      : shape_(s), logits_(static_cast<std::size_t>(block * s.kv_len)) {}

  void run(const bench::attention_case<float>& c) {
    for (index_t h = 0; h < shape_.heads; ++h)
      for (index_t first = 0; first < shape_.q_len; first += block) run_block(c, h, first);
  }

 private:
  void run_block(const bench::attention_case<float>& c, index_t head, index_t first) {
    const index_t rows = std::min(block, shape_.q_len - first), keys = c.seen(first + rows - 1);
    const index_t dim = shape_.head_dim, kv_head = c.kv_head(head);
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    Library::multiply({rows, keys, dim, scale, c.q.row(head, first), c.k.row(kv_head, 0),
                       logits_.data(), dim, dim, shape_.kv_len, true});
    for (index_t i = 0; i < rows; ++i)
      softmax(logits_.data() + i * shape_.kv_len, c.seen(first + i), keys);
    Library::multiply({rows, dim, keys, 1.0f, logits_.data(), c.v.row(kv_head, 0),
                       c.out.data() + (head * shape_.q_len + first) * dim, shape_.kv_len, dim, dim,
                       false});
  }

  bench::shape shape_;
  std::vector<float> logits_;
};

template <class Library>
bool print_ratios(const bench::shape& s) {
  const bench::attention_case<float> c(s);
  attention_by_products<Library> other(s);
  std::printf("%s %s:", Library::name, s.name().c_str());
  c.run(gamma);  // for the LSE, which the other does not make
  other.run(c);
  if (!c.check(gamma, bench::tolerance<float>)) {
    std::printf(" WRONG RESULT\n");
    return false;
  }
  const bench::ratios r =
      bench::compare([&] { other.run(c); }, [&] { c.run(gamma); }, s.q_len >= 2048 ? 5 : 15);
  std::printf(" %.0f GFLOP/s;", s.flops() / r.fastest_a / 1e9);
  bench::print_figure("", "products / ours", r);
  std::printf("\n");
  return true;
}

template <class Library>
bool run_library() {
  if (!Library::start()) return true;
  bool good = true;
  for (const bench::shape& s : shapes)
    if (!bench::is_quick() || s.q_len <= 512) good &= print_ratios<Library>(s);
  if (!good) return false;
  for (const bench::shape& s : shapes)
    benchmark::RegisterBenchmark((std::string(Library::name) + "/" + s.name()).c_str(),
                                 [s](benchmark::State& state) {
                                   const bench::attention_case<float> c(s);
                                   attention_by_products<Library> other(s);
                                   for (auto _ : state) other.run(c);
                                 });
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  bench::print_roofs();
  std::printf("attention by products, float, one thread: medians [quartiles]\n");
  bool good = true;
#if defined(ZEROTUNE_BENCHMARK_OPENBLAS)
  good &= run_library<openblas>();
#endif
#if defined(ZEROTUNE_BENCHMARK_ONEDNN)
  good &= run_library<onednn>();
#endif
  if (!good) return EXIT_FAILURE;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
