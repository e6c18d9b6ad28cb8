// SPDX-License-Identifier: Apache-2.0
// The forms on logits and weights on a GPU, each checked before it is timed: the share of the DRAM
// roof (measured with a copy), which is all that they can be bound by.
//
//   nvcc -std=c++20 -O3 -arch=native -Iinclude benchmarks/cuda_forms.cu -o cuda_forms
#include <cmath>

#include "cuda_harness.cuh"

namespace zt = zerotune;
using namespace zerotune_benchmark;

namespace {

using T = zt::bfloat16;
constexpr zt::index_t batch = 2, num_heads = 32, q_len = 1024, kv_len = 1024;
constexpr zt::attention_shape shape{batch, num_heads, q_len, kv_len};
constexpr std::size_t rows = std::size_t(batch * num_heads * q_len);
constexpr float gamma_of_all = 3.0f;

double value(T x) { return double(float(x)); }

/// Weights of gamma on a row of softmaxed weights, with a row's own sum, in double.
double error_of_weights(const std::vector<T>& before, const std::vector<T>& after) {
  double worst = 0;
  for (std::size_t r = 0; r < rows; r += rows / 17) {
    const T* const x = &before[r * kv_len];
    double rest = 0;
    for (std::size_t j = 1; j < std::size_t(kv_len); ++j) rest += value(x[j]);
    const double d = (gamma_of_all * value(x[0]) + rest) / (value(x[0]) + rest);
    for (std::size_t j = 0; j < std::size_t(kv_len); ++j)
      worst = std::max(worst, std::abs(value(after[r * kv_len + j]) -
                                       value(x[j]) * (j == 0 ? gamma_of_all : 1.0) / d));
  }
  return worst;
}

/// Softmax of logits with gamma, in double.
double error_of_softmax(const std::vector<T>& logits, const std::vector<T>& weights) {
  double worst = 0;
  for (std::size_t r = 0; r < rows; r += rows / 17) {
    const auto term = [&](std::size_t j) {
      return std::exp(value(logits[r * kv_len + j])) * (j == 0 ? gamma_of_all : 1.0);
    };
    double sum = 0;
    for (std::size_t j = 0; j < std::size_t(kv_len); ++j) sum += term(j);
    for (std::size_t j = 0; j < std::size_t(kv_len); ++j)
      worst = std::max(worst, std::abs(value(weights[r * kv_len + j]) - term(j) / sum));
  }
  return worst;
}

/// Prints a line; `bytes` is what the form must move.
int report(const char* name, double error, double bytes, double seconds, const roofs& roof) {
  if (!(error < 1e-2)) {
    std::printf("%s: WRONG, error %g: not timed\n", name, error);
    return 1;
  }
  std::printf("%-18s error %.1e  %8.1f us  %5.1f %% of DRAM roof\n", name, error, seconds * 1e6,
              100 * bytes / seconds / roof.bytes_per_second);
  return 0;
}

int run(const roofs& roof) {
  const zt::backend::cuda backend{};
  const buffer<std::byte> table(std::size_t(zt::device_table_bytes(shape)));
  const auto sink = zt::to_device(backend, zt::initial_token{gamma_of_all}, shape,
                                  {table.data, {zt::device_table_bytes(shape)}});
  const std::vector<T> logits = random_values<T>(rows * std::size_t(kv_len), 1);
  const buffer<T> x(logits), y(logits.size());
  const auto view = [](const buffer<T>& b) {
    return zt::tensor_view<T, 4, zt::device_memory>(b.data, {batch, num_heads, q_len, kv_len});
  };
  const double tensor = double(logits.size()) * sizeof(T);
  int failures = 0;

  const auto softmax = [&] { zt::softmax(backend, view(x), view(y), sink); };
  softmax();
  const std::vector<T> weights = y.read();
  failures +=
      report("softmax", error_of_softmax(logits, weights), 2 * tensor, seconds_of(softmax), roof);

  const auto rescale = [&] { zt::rescale_weights(backend, view(y), sink); };
  rescale();
  failures += report("rescale_weights", error_of_weights(weights, y.read()), 2 * tensor,
                     seconds_of(rescale), roof);

  const auto bias = [&] { zt::bias_logits(backend, view(x), sink); };
  bias();
  const std::vector<T> biased = x.read();
  double error = 0;
  for (std::size_t i = 0; i < biased.size(); i += 257) {
    const double expected =
        value(logits[i]) + (i % std::size_t(kv_len) == 0 ? std::log(double(gamma_of_all)) : 0.0);
    error = std::max(error, std::abs(value(biased[i]) - expected) / (1 + std::abs(expected)));
  }
  // One number of a row: a sector is what DRAM gives and takes.
  failures += report("bias_logits", error, 2 * 32 * double(rows), seconds_of(bias), roof);

  const auto mask = [&] { zt::fill_mask(backend, view(y), zt::causal{} | sink); };
  mask();
  const std::vector<T> filled = y.read();
  error = 0;
  for (std::size_t i = 0; i < filled.size(); i += 257) {
    const std::size_t j = i % std::size_t(kv_len), q = i / std::size_t(kv_len) % std::size_t(q_len);
    const double expected = j > q ? -HUGE_VAL : j == 0 ? std::log(double(gamma_of_all)) : 0.0;
    const double got = value(filled[i]);
    error = std::max(error, got == expected ? 0.0 : std::abs(got - expected));
  }
  failures += report("fill_mask", error, tensor, seconds_of(mask), roof);
  return failures;
}

}  // namespace

int main() {
  if (!has_device()) return 0;
  const roofs roof = measure_roofs();
  std::printf("DRAM %.0f GB/s (copy)\n", roof.bytes_per_second * 1e-9);
  return run(roof);
}
