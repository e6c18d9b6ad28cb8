// SPDX-License-Identifier: Apache-2.0
// What this machine can do at most, one thread: fused multiply-adds, dot products of bfloat16 pairs
// where attention takes them, reading memory, scaling memory in place (which, unlike a copy,
// allocates no second line for its writes).
#pragma once

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "interleaved.hpp"
#include "zerotune/core/config.hpp"
#include "zerotune/kernel/simd/simd.hpp"

namespace bench {

inline constexpr std::size_t vector_bytes = zerotune::impl::batch<float, void>::size * 4;
typedef float floats __attribute__((vector_size(vector_bytes)));
typedef std::uint32_t words __attribute__((vector_size(vector_bytes)));

/// Memory for a benchmark, aligned to a page of 2 MiB.
class memory {
 public:
  explicit memory(std::size_t bytes)
      : data_(static_cast<std::byte*>(::operator new (bytes, std::align_val_t{1u << 21}))) {
    for (std::size_t i = 0; i < bytes; ++i) data_.get()[i] = std::byte{0};
  }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_.get());
  }

 private:
  struct release {
    void operator()(std::byte* p) const { ::operator delete (p, std::align_val_t{1u << 21}); }
  };
  std::unique_ptr<std::byte, release> data_;
};

/// Reads and writes every byte once. The addition of a zero that the compiler does not know keeps
/// any contents, of any element type.
[[gnu::noinline]] inline void scale_in_place(void* data, std::size_t bytes) {
  std::uint32_t zero = 0;
  asm volatile("" : "+r"(zero));
  auto* const p = static_cast<std::byte*>(data);
  for (std::size_t i = 0; i + 4 * vector_bytes <= bytes; i += 4 * vector_bytes) {
    words w[4];
    __builtin_memcpy(w, p + i, sizeof w);
    for (words& x : w) x += zero;
    __builtin_memcpy(p + i, w, sizeof w);
  }
}

[[gnu::noinline]] inline void read_all(const void* data, std::size_t bytes) {
  const auto* const p = static_cast<const std::byte*>(data);
  words sums[8] = {};
  for (std::size_t i = 0; i + 8 * vector_bytes <= bytes; i += 8 * vector_bytes)
    for (std::size_t n = 0; n < 8; ++n) {
      words w;
      __builtin_memcpy(&w, p + i + n * vector_bytes, sizeof w);
      sums[n] += w;
    }
  for (words& x : sums) asm volatile("" : : "m"(x));
}

/// Independent sums that hide the latency of the instructions that add to them.
inline constexpr int chains = vector_bytes >= 64 ? 24 : 12;

/// sums = add(sums), `count` times.
template <class Add>
[[gnu::always_inline]] inline void add_many(int count, const Add& add) {
  using batch = zerotune::impl::batch<float, void>;
  batch sums[chains];
  for (int i = 0; i < chains; ++i) sums[i] = batch(static_cast<float>(i));
  for (int n = 0; n < count; ++n)
#pragma GCC unroll 24
    for (int i = 0; i < chains; ++i) sums[i] = add(sums[i]);
  for (batch& x : sums) asm volatile("" : : "m"(x));
}

[[gnu::noinline]] inline void multiply_add_many(int count) {
  using batch = zerotune::impl::batch<float, void>;
  float factor = 0.999f;
  asm volatile("" : "+m"(factor));
  const batch f(factor), g(1e-9f);
  add_many(
      count, [&](const batch& sum) __attribute__((always_inline)) {
        return zerotune::impl::multiply_add(sum, f, g);
      });
}
inline constexpr double flops_of_multiply_adds = 2.0 * chains * (vector_bytes / 4);

[[gnu::noinline]] inline void dot_many(int count) {
  using batch = zerotune::impl::batch<float, void>;
  using operand = zerotune::impl::pair_operand<batch>;
  std::uint32_t pair = 0x00013f80u;  // 1 and next to nothing
  asm volatile("" : "+m"(pair));
  const operand x = operand::splat(pair);
  add_many(
      count, [&](const batch& sum) __attribute__((always_inline)) { return x.multiply(x, sum); });
}
inline constexpr double flops_of_dots = 2 * flops_of_multiply_adds;

/// Whether attention on bfloat16 is made of them here.
inline bool has_dots() {
  return zerotune::impl::bfloat16_products() == zerotune::impl::product_kind::pairs;
}

template <class Body>
double fastest(const Body& body, int samples) {
  body();
  double best = 1e30;
  for (int i = 0; i < samples; ++i) best = std::min(best, time_of(body, 1));
  return best;
}

inline std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  return "unknown CPU";
}

/// Prints the CPU, the instruction set in use and the roofs.
inline void print_roofs() {
#if !defined(__OPTIMIZE__)
  std::printf("COMPILED WITHOUT OPTIMISATION: these figures mean nothing\n");
#endif
  std::printf("%s; compiled for %s (%s), %s\n", cpu_name().c_str(),
              zerotune::instruction_set_name(), ZEROTUNE_ABI_NAME, __VERSION__);
  constexpr int count = 200000;
  const double fma = fastest([] { multiply_add_many(count); }, 40);
  std::printf("roofs, one thread: FMA %.0f GFLOP/s;", flops_of_multiply_adds * count / fma / 1e9);
  if (has_dots()) {
    const double dot = fastest([] { dot_many(count); }, 40);
    std::printf(" bfloat16 dot %.0f GFLOP/s;", flops_of_dots * count / dot / 1e9);
  }
  const std::size_t sizes[] = {std::size_t{1} << 20, std::size_t{48} << 20, std::size_t{512} << 20};
  const char* const names[] = {"1 MiB", "48 MiB", "512 MiB"};
  const memory buffer(sizes[2]);
  for (int i = 0; i < 3; ++i) {
    const int samples = i == 0 ? 200 : i == 1 ? 15 : 4;
    const double bytes = static_cast<double>(sizes[i]);
    const double read = fastest([&] { read_all(buffer.as<char>(), sizes[i]); }, samples);
    const double scale = fastest([&] { scale_in_place(buffer.as<char>(), sizes[i]); }, samples);
    std::printf(" %s: read %.1f GB/s, in place (read + write) %.1f GB/s%s", names[i],
                bytes / read / 1e9, 2 * bytes / scale / 1e9, i < 2 ? ";" : "\n");
  }
}

}  // namespace bench
