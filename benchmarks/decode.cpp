// SPDX-License-Identifier: Apache-2.0
// Decode beside a plain sum over the same keys and values, which is what memory allows: 32/8 heads,
// head_dim 128, 1k to 64k keys of every cache type; as they lie in the caches, and from memory.
// Queries are bfloat16 beside a bfloat16 cache, else float.
//
//   benchmark_decode                            shares of the read roof, then a table
//   benchmark_decode --benchmark_filter=none    shares alone
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdlib>

#include "roofs.hpp"
#include "zerotune/apply/decode.hpp"
#include "zerotune/apply/quantize.hpp"
#include "zerotune/kernel/simd/decode.hpp"
#include "zerotune/policy/compose.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"

namespace {

namespace zt = zerotune;
using zt::index_t;

constexpr index_t heads = 32, kv_heads = 8, head_dim = 128, page_size = 16;
constexpr index_t lengths[] = {1024, 4096, 16384, 65536};

template <class T>
constexpr const char* name_of = "f32";
template <>
constexpr const char* name_of<zt::float16> = "f16";
template <>
constexpr const char* name_of<zt::bfloat16> = "bf16";
template <>
constexpr const char* name_of<zt::q8_0> = "q8_0";

void fill(float* x, index_t count, std::uint64_t state) {
  for (index_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    x[i] = static_cast<float>(static_cast<std::int64_t>(state >> 40)) / 0x1p22f - 2.0f;
  }
}

/// Takes memory out of all caches.
void flush(const void* data, std::size_t bytes) {
#if defined(__SSE2__)
  const char* const p = static_cast<const char*>(data);
  for (std::size_t i = 0; i < bytes; i += 64) _mm_clflush(p + i);
  _mm_mfence();
#else
  static const bench::memory other(std::size_t{1} << 30);
  bench::read_all(other.as<char>(), std::size_t{1} << 30);
#endif
}

template <class T>
using query_of = std::conditional_t<std::is_same_v<T, zt::bfloat16>, T, float>;

template <class T>
class problem {
 public:
  explicit problem(index_t kv_len)
      : kv_len_(kv_len),
        bytes_(static_cast<std::size_t>(kv_heads * kv_len * cells) * sizeof(T)),
        k_(bytes_),
        v_(bytes_),
        q_(static_cast<std::size_t>(heads * head_dim)),
        out_(q_.size()),
        workspace_(static_cast<std::size_t>(zt::attention_decode_workspace_bytes(
            {1, heads, 1, kv_len}, kv_heads, head_dim, head_dim))),
        table_(static_cast<std::size_t>(kv_len / page_size)) {
    fill(out_.data(), heads * head_dim, 1);
    for (std::size_t i = 0; i < q_.size(); ++i) q_[i] = query_of<T>(out_[i]);
    for (const bench::memory* part : {&k_, &v_}) {
      std::vector<float> row(static_cast<std::size_t>(head_dim));
      for (index_t i = 0; i < kv_heads * kv_len; ++i) {
        fill(row.data(), head_dim, static_cast<std::uint64_t>(i) + (part == &k_ ? 2u : 1000003u));
        T* const to = part->template as<T>() + i * cells;
        if constexpr (std::is_same_v<T, zt::q8_0>)
          zt::quantize(zt::tensor_view<const float, 4>(row.data(), {1, 1, 1, head_dim}),
                       zt::tensor_view<T, 4>(to, {1, 1, 1, cells}));
        else
          for (index_t c = 0; c < head_dim; ++c) to[c] = T(row[static_cast<std::size_t>(c)]);
      }
    }
    // Pages in an order that jumps.
    const auto pages = static_cast<index_t>(table_.size());
    for (index_t i = 0; i < pages; ++i)
      table_[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i * 29 % pages);
  }

  template <class Backend = zt::backend::simd<>>
  void run(Backend backend = {}) {
    call(backend, dense(k_), dense(v_));
  }
  /// The same memory as pages of all heads, in the table's order.
  void run_paged() { call(zt::backend::simd<>{}, paged(k_), paged(v_)); }

  void read() const {
    bench::read_all(k_.as<char>(), bytes_);
    bench::read_all(v_.as<char>(), bytes_);
  }
  void flush() const {
    ::flush(k_.as<char>(), bytes_);
    ::flush(v_.as<char>(), bytes_);
  }
  std::size_t bytes() const { return 2 * bytes_; }

  /// Weights may be rounded to bfloat16 where queries are.
  static constexpr float tolerance = std::is_same_v<query_of<T>, float> ? 2e-6f : 5e-4f;

  /// Against the scalar back end.
  bool check() {
    run();
    const std::vector<float> fast = out_;
    run(zt::backend::scalar{});
    for (std::size_t i = 0; i < fast.size(); ++i)
      if (!(std::abs(fast[i] - out_[i]) <= tolerance)) return false;
    return true;
  }

 private:
  static constexpr index_t cells = head_dim / zt::cell_size<T>;

 public:
  /// What a host knows: of calls one after another, that a third-level cache holds the keys still.
  index_t kept_bytes = 0;

 private:
  template <class Backend, class Cache>
  void call(Backend backend, const Cache& k, const Cache& v) {
    zt::attention_decode(
        backend, zt::tensor_view<const query_of<T>, 4>(q_.data(), {1, heads, 1, head_dim}), k, v,
        zt::tensor_view<float, 4>(out_.data(), {1, heads, 1, head_dim}),
        zt::causal{} | zt::initial_token{2.0f},
        {.workspace = zt::view_of(workspace_), .plan = {.kept_bytes = kept_bytes}});
  }
  zt::tensor_view<const T, 4> dense(const bench::memory& m) const {
    return {m.as<T>(), {1, kv_heads, kv_len_, cells}};
  }
  zt::paged_cache<const T> paged(const bench::memory& m) const {
    const index_t pages = kv_len_ / page_size;
    return {{m.as<T>(), {pages, kv_heads, page_size, cells}}, {table_.data(), {1, pages}}};
  }

  index_t kv_len_;
  std::size_t bytes_;
  bench::memory k_, v_;
  std::vector<query_of<T>> q_;
  std::vector<float> out_;
  std::vector<std::byte> workspace_;
  std::vector<std::int32_t> table_;
};

struct sample {
  std::vector<double> shares, rates, roofs;
  double median(std::vector<double>& x) const {
    std::sort(x.begin(), x.end());
    return x[x.size() / 2];
  }
};

/// Interleaved A B B A with the plain sum; `before` runs untimed ahead of each.
template <class Body, class Read, class Before>
void print_share(const char* what, std::size_t bytes, const Body& body, const Read& read,
                 const Before& before) {
  const auto time = [&](const auto& f) {
    before();
    return bench::time_of(f, 1);
  };
  const double size = static_cast<double>(bytes);
  const int rounds = bytes > (64u << 20) ? 7 : 41;
  sample s;
  body(), read();
  for (int i = 0; i < rounds; ++i) {
    const double a1 = time(body), b1 = time(read), b2 = time(read), a2 = time(body);
    s.shares.push_back((b1 + b2) / (a1 + a2));
    s.rates.push_back(2 * size / (a1 + a2) / 1e9);
    s.roofs.push_back(2 * size / (b1 + b2) / 1e9);
  }
  const double share = s.median(s.shares);
  const std::size_t n = s.shares.size();
  std::printf("; %s %5.1f GB/s of %5.1f, %.3f [%.3f, %.3f]", what, s.median(s.rates),
              s.median(s.roofs), share, s.shares[n / 4], s.shares[3 * n / 4]);
}

template <class T>
bool print_shares(index_t kv_len) {
  problem<T> p(kv_len);
  std::printf("%4s %5d keys, %5.1f MB", name_of<T>, static_cast<int>(kv_len),
              static_cast<double>(p.bytes()) / 1e6);
  if (!p.check()) {
    std::printf(": WRONG RESULT\n");
    return false;
  }
  const auto run = [&] { p.run(); };
  const auto read = [&] { p.read(); };
  p.kept_bytes = zt::machine_caches().level3 / 4 * 3;
  print_share("warm", p.bytes(), run, read, [] {});
  p.kept_bytes = 0;
  print_share("cold", p.bytes(), run, read, [&] { p.flush(); });
  const bench::ratios paged = bench::compare([&] { p.run_paged(); }, run, kv_len > 8192 ? 5 : 21);
  std::printf("; paged / contiguous time ");
  bench::print_ratio(paged);
  std::printf("\n");
  std::fflush(stdout);
  return true;
}

template <class T>
void register_one(index_t kv_len) {
  benchmark::RegisterBenchmark(
      ("decode/" + std::string(name_of<T>) + "/" + std::to_string(kv_len)).c_str(),
      [kv_len](benchmark::State& state) {
        problem<T> p(kv_len);
        for (auto _ : state) p.run();
        state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) *
                                static_cast<std::int64_t>(p.bytes()));
      });
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  bench::print_roofs();
  std::printf(
      "decode, 32/8 heads, d=128, one thread, gamma = 2: bytes of K and V per second, the "
      "same of a plain sum, their ratio: medians [quartiles] of interleaved samples\n");
  bool good = true;
  for (const index_t kv_len : lengths) {
    good &= print_shares<float>(kv_len);
    good &= print_shares<zt::bfloat16>(kv_len);
    good &= print_shares<zt::float16>(kv_len);
    good &= print_shares<zt::q8_0>(kv_len);
  }
  if (!good) return EXIT_FAILURE;
  for (const index_t kv_len : lengths) {
    register_one<float>(kv_len);
    register_one<zt::bfloat16>(kv_len);
    register_one<zt::float16>(kv_len);
    register_one<zt::q8_0>(kv_len);
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
