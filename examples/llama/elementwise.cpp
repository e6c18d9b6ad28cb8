// SPDX-License-Identifier: Apache-2.0
#include "llama/elementwise.hpp"

#include <cmath>
#include <cstdint>

#include "llama/vector_math.hpp"

namespace llama {

void rms_norm(std::span<const float> x, std::span<const float> weight, float epsilon,
              std::span<float> y) {
  const auto count = static_cast<std::int64_t>(x.size());
  vector squares{};
  for_each_vector(count, [&](auto get, auto) {
    const vector v = get(x.data());
    squares += v * v;
  });
  const float mean = sum_of(squares) / static_cast<float>(count);
  const vector scale = broadcast(1.0f / std::sqrt(mean + epsilon));
  for_each_vector(count, [&](auto get, auto put) {
    put(y.data(), get(x.data()) * scale * get(weight.data()));
  });
}

void rotate(std::span<float> heads, int head_dim, std::span<const float> cosines,
            std::span<const float> sines) {
  const auto half = static_cast<std::int64_t>(cosines.size());
  const auto count = static_cast<std::int64_t>(heads.size()) / head_dim;
  for (std::int64_t head = 0; head < count; ++head) {
    float* const low = heads.data() + head * head_dim;
    float* const high = low + half;
    for_each_vector(half, [&](auto get, auto put) {
      const vector a = get(low), b = get(high), c = get(cosines.data()), s = get(sines.data());
      put(low, a * c - b * s);
      put(high, b * c + a * s);
    });
  }
}

void swiglu(std::span<const float> gate_up, std::span<float> y) {
  const float* const gate = gate_up.data();
  const float* const up = gate + y.size();
  for_each_vector(static_cast<std::int64_t>(y.size()), [&](auto get, auto put) {
    const vector g = get(gate);
    put(y.data(), g / (broadcast(1.0f) + exp_of(-g)) * get(up));
  });
}

}  // namespace llama
