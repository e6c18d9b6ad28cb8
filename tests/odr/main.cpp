// SPDX-License-Identifier: Apache-2.0
// Translation units built for different architectures and modes, linked into one program: each
// gives the right result, and each runs its own code. Prevents that the linker folds a function
// built for one architecture into another's.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "entry.hpp"

#define ZEROTUNE_ODR_DECLARE(name, needs) odr_entry odr_##name;
#include "odr_entries.inc"
#undef ZEROTUNE_ODR_DECLARE

namespace {

constexpr std::int64_t heads = 3, queries = 5, keys = 37, dim = 19;

/// Values that any architecture makes alike.
std::vector<float> values(std::size_t count, unsigned seed) {
  std::vector<float> result(count);
  for (float& value : result) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<float>(seed >> 8) / 8388608.0f - 1.0f;
  }
  return result;
}

struct buffers {
  std::vector<float> out, lse, weights, logits, mask;
};

int failures = 0;

void expect_close(const char* name, const char* what, double got, double expected) {
  if (std::fabs(got - expected) <= 1e-5 * (1.0 + std::fabs(expected))) return;
  std::printf("%s: %s: expected %.9g, got %.9g\n", name, what, expected, got);
  ++failures;
}

/// In double, from the definition; shares nothing with the library.
void check(const char* name, const buffers& b, const std::vector<float>& gamma,
           const std::vector<float>& q, const std::vector<float>& k, const std::vector<float>& v,
           const std::vector<float>& weights, const std::vector<float>& logits, float scale) {
  for (std::int64_t h = 0; h < heads; ++h) {
    const double log_gamma = std::log(static_cast<double>(gamma[static_cast<std::size_t>(h)]));
    for (std::int64_t i = 0; i < queries; ++i) {
      const std::int64_t at = h * queries + i, seen = keys - queries + i + 1;
      std::vector<double> weight(static_cast<std::size_t>(seen));
      double total = 0;
      for (std::int64_t j = 0; j < seen; ++j) {
        double dot = j == 0 ? log_gamma / static_cast<double>(scale) : 0.0;
        for (std::int64_t c = 0; c < dim; ++c)
          dot += static_cast<double>(q[static_cast<std::size_t>(at * dim + c)]) *
                 static_cast<double>(k[static_cast<std::size_t>((h * keys + j) * dim + c)]);
        total += weight[static_cast<std::size_t>(j)] = std::exp(static_cast<double>(scale) * dot);
      }
      expect_close(name, "lse", static_cast<double>(b.lse[static_cast<std::size_t>(at)]),
                   std::log(total));
      for (std::int64_t c = 0; c < dim; ++c) {
        double sum = 0;
        for (std::int64_t j = 0; j < seen; ++j)
          sum += weight[static_cast<std::size_t>(j)] / total *
                 static_cast<double>(v[static_cast<std::size_t>((h * keys + j) * dim + c)]);
        expect_close(name, "out",
                     static_cast<double>(b.out[static_cast<std::size_t>(at * dim + c)]), sum);
      }
      const double factor = static_cast<double>(gamma[static_cast<std::size_t>(h)]);
      double before = 0;
      for (std::int64_t j = 0; j < seen; ++j)
        before += static_cast<double>(weights[static_cast<std::size_t>(at * keys + j)]);
      const double first = static_cast<double>(weights[static_cast<std::size_t>(at * keys)]);
      const double after = before + (factor - 1.0) * first;
      for (std::int64_t j = 0; j < keys; ++j) {
        const auto index = static_cast<std::size_t>(at * keys + j);
        const double weight_j = static_cast<double>(weights[index]);
        const double changed = weight_j * (j == 0 ? factor : 1.0) * before / after;
        expect_close(name, "weights", static_cast<double>(b.weights[index]),
                     j < seen ? changed : weight_j);
        if (j >= seen) continue;
        const double bias = j == 0 ? log_gamma : 0.0;
        expect_close(name, "mask", static_cast<double>(b.mask[index]), bias);
        expect_close(name, "logits", static_cast<double>(b.logits[index]),
                     static_cast<double>(logits[index]) + bias);
      }
    }
  }
}

}  // namespace

int main() {
  const std::vector<float> gamma{0.25f, 1.0f, 6.0f};
  const auto q = values(heads * queries * dim, 1), k = values(heads * keys * dim, 2);
  const auto v = values(heads * keys * dim, 3), logits = values(heads * queries * keys, 4);
  auto weights = values(heads * queries * keys, 5);
  for (float& weight : weights) weight = (weight + 1.0f) / static_cast<float>(keys);
  const float scale = 0.23f;

  std::set<std::string> names;
  int ran = 0, skipped = 0;
  const auto run = [&](const char* name, odr_entry* entry, bool supported) {
    if (!supported) {
      std::printf("%s: skipped, the CPU lacks the instructions\n", name);
      ++skipped;
      return;
    }
    buffers b{std::vector<float>(heads * queries * dim), std::vector<float>(heads * queries),
              weights, logits, std::vector<float>(heads * queries * keys)};
    const char* abi =
        entry({heads, queries, keys, dim, scale, gamma.data(), q.data(), k.data(), v.data(),
               b.out.data(), b.lse.data(), b.weights.data(), b.logits.data(), b.mask.data()});
    check(name, b, gamma, q, k, v, weights, logits, scale);
    if (std::strstr(name, "_scalar") && !names.insert(abi).second) {
      std::printf("%s: the tag %s is another translation unit's as well\n", name, abi);
      ++failures;
    }
    ++ran;
  };
#if defined(__x86_64__)
#define ZEROTUNE_ODR_SUPPORTS_sse2 true
#define ZEROTUNE_ODR_SUPPORTS_avx2 \
  (__builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0)
#define ZEROTUNE_ODR_SUPPORTS_avx512                                                \
  (ZEROTUNE_ODR_SUPPORTS_avx2 && __builtin_cpu_supports("avx512f") != 0 &&          \
   __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512dq") && \
   __builtin_cpu_supports("avx512vl") != 0)
#endif
#define ZEROTUNE_ODR_SUPPORTS_baseline true
#define ZEROTUNE_ODR_DECLARE(name, needs) run(#name, odr_##name, ZEROTUNE_ODR_SUPPORTS_##needs);
#include "odr_entries.inc"
  std::printf("%d translation units right, %d skipped, %d failures\n", ran, skipped, failures);
  return failures == 0 && ran > 0 ? 0 : 1;
}
