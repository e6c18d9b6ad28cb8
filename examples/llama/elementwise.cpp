// SPDX-License-Identifier: Apache-2.0
#include "llama/elementwise.hpp"

#include <cmath>
#include <cstdint>

#include "llama/vector_math.hpp"

namespace llama {
namespace {

/// 1 / sqrt(mean of x^2 + epsilon)
float inverse_rms(std::span<const float> x, float epsilon) {
  const auto count = static_cast<std::int64_t>(x.size());
  vector squares{};
  for_each_vector(count, [&](auto get, auto) {
    const vector v = get(x.data());
    squares += v * v;
  });
  const float mean = sum_of(squares) / static_cast<float>(count);
  return 1.0f / std::sqrt(mean + epsilon);
}

/// Turns pairs by their angles times `direction`, 1 or -1.
void turn(std::span<float> heads, int head_dim, std::span<const float> cosines,
          std::span<const float> sines, float direction) {
  const auto half = static_cast<std::int64_t>(cosines.size());
  const auto count = static_cast<std::int64_t>(heads.size()) / head_dim;
  for (std::int64_t head = 0; head < count; ++head) {
    float* const low = heads.data() + head * head_dim;
    float* const high = low + half;
    for_each_vector(half, [&](auto get, auto put) {
      const vector a = get(low), b = get(high), c = get(cosines.data());
      const vector s = get(sines.data()) * broadcast(direction);
      put(low, a * c - b * s);
      put(high, b * c + a * s);
    });
  }
}

}  // namespace

void rms_norm(std::span<const float> x, std::span<const float> weight, float epsilon,
              std::span<float> y) {
  const auto count = static_cast<std::int64_t>(x.size());
  const vector scale = broadcast(inverse_rms(x, epsilon));
  for_each_vector(count, [&](auto get, auto put) {
    put(y.data(), get(x.data()) * scale * get(weight.data()));
  });
}

void rms_norm_backward(std::span<const float> x, std::span<const float> weight, float epsilon,
                       std::span<const float> d_y, std::span<float> d_x) {
  const auto count = static_cast<std::int64_t>(x.size());
  const float r = inverse_rms(x, epsilon);
  vector products{};
  for_each_vector(count, [&](auto get, auto) {
    products += get(x.data()) * (get(weight.data()) * get(d_y.data()));
  });
  // dy_j / dx_i = r w_j ([i = j] - r^2 x_i x_j / count)
  const vector scale = broadcast(r);
  const vector shift = broadcast(r * r * r * sum_of(products) / static_cast<float>(count));
  for_each_vector(count, [&](auto get, auto put) {
    const vector direct = get(weight.data()) * get(d_y.data()) * scale;
    put(d_x.data(), get(d_x.data()) + (direct - get(x.data()) * shift));
  });
}

void rotate(std::span<float> heads, int head_dim, std::span<const float> cosines,
            std::span<const float> sines) {
  turn(heads, head_dim, cosines, sines, 1.0f);
}

void rotate_back(std::span<float> heads, int head_dim, std::span<const float> cosines,
                 std::span<const float> sines) {
  turn(heads, head_dim, cosines, sines, -1.0f);
}

void swiglu(std::span<const float> gate_up, std::span<float> y) {
  const float* const gate = gate_up.data();
  const float* const up = gate + y.size();
  for_each_vector(static_cast<std::int64_t>(y.size()), [&](auto get, auto put) {
    const vector g = get(gate);
    put(y.data(), g / (broadcast(1.0f) + exp_of(-g)) * get(up));
  });
}

void swiglu_backward(std::span<const float> gate_up, std::span<const float> d_y,
                     std::span<float> d_gate_up) {
  const float* const gate = gate_up.data();
  const float* const up = gate + d_y.size();
  float* const d_gate = d_gate_up.data();
  float* const d_up = d_gate + d_y.size();
  const vector one = broadcast(1.0f);
  for_each_vector(static_cast<std::int64_t>(d_y.size()), [&](auto get, auto put) {
    const vector g = get(gate), d = get(d_y.data());
    const vector sigmoid = one / (one + exp_of(-g));
    put(d_gate, d * get(up) * sigmoid * (one + g * (one - sigmoid)));
    put(d_up, d * g * sigmoid);
  });
}

}  // namespace llama
