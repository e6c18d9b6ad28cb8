// SPDX-License-Identifier: Apache-2.0
// What a layer does between its products, for one instruction set: compiled once for each, with
// ZEROTUNE_DISPATCHED as the name of the one function that it is entered through.
#include <cmath>

#include "llama/kernels.hpp"
#include "llama/vector_math.hpp"

namespace {

using namespace llama;

/// 1 / sqrt(mean of x^2 + epsilon)
float inverse_rms(const float* x, std::int64_t size, float epsilon) {
  vector squares{};
  for_each_vector(size, [&](auto get, auto) {
    const vector v = get(x);
    squares += v * v;
  });
  return 1.0f / __builtin_sqrtf(sum_of(squares) / static_cast<float>(size) + epsilon);
}

void rms_norm(const float* x, const float* weight, std::int64_t size, float epsilon,
              float* y) noexcept {
  const vector scale = broadcast(inverse_rms(x, size, epsilon));
  for_each_vector(size, [&](auto get, auto put) { put(y, get(x) * scale * get(weight)); });
}

void rms_norm_backward(const float* x, const float* weight, std::int64_t size, float epsilon,
                       const float* d_y, float* d_x) noexcept {
  const float r = inverse_rms(x, size, epsilon);
  vector products{};
  for_each_vector(size, [&](auto get, auto) { products += get(x) * (get(weight) * get(d_y)); });
  // dy_j / dx_i = r w_j ([i = j] - r^2 x_i x_j / size)
  const vector scale = broadcast(r);
  const vector shift = broadcast(r * r * r * sum_of(products) / static_cast<float>(size));
  for_each_vector(size, [&](auto get, auto put) {
    const vector direct = get(weight) * get(d_y) * scale;
    put(d_x, get(d_x) + (direct - get(x) * shift));
  });
}

void turn(float* heads, std::int64_t num_heads, std::int64_t head_dim, const float* cosines,
          const float* sines, std::int64_t half, float direction) noexcept {
  for (std::int64_t head = 0; head < num_heads; ++head) {
    float* const low = heads + head * head_dim;
    float* const high = low + half;
    for_each_vector(half, [&](auto get, auto put) {
      const vector a = get(low), b = get(high), c = get(cosines);
      const vector s = get(sines) * broadcast(direction);
      put(low, a * c - b * s);
      put(high, b * c + a * s);
    });
  }
}

void swiglu(const float* gate, const float* up, float* y, std::int64_t size) noexcept {
  for_each_vector(size, [&](auto get, auto put) {
    const vector g = get(gate);
    put(y, g / (broadcast(1.0f) + exp_of(-g)) * get(up));
  });
}

void swiglu_backward(const float* gate_up, const float* d_y, float* d_gate_up,
                     std::int64_t size) noexcept {
  const float* const gate = gate_up;
  const float* const up = gate + size;
  float* const d_gate = d_gate_up;
  float* const d_up = d_gate + size;
  const vector one = broadcast(1.0f);
  for_each_vector(size, [&](auto get, auto put) {
    const vector g = get(gate), d = get(d_y);
    const vector sigmoid = one / (one + exp_of(-g));
    put(d_gate, d * get(up) * sigmoid * (one + g * (one - sigmoid)));
    put(d_up, d * g * sigmoid);
  });
}

void add(const float* from, float* to, std::int64_t size) noexcept {
  for_each_vector(size, [&](auto get, auto put) { put(to, get(to) + get(from)); });
}

void round(const float* from, std::uint16_t* to, std::int64_t size) noexcept {
  for (std::int64_t i = 0; i < size; ++i) {
    const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, from[i]);
    const std::uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    to[i] = static_cast<std::uint16_t>(is_nan ? bits >> 16 | 0x40u : rounded);
  }
}

float largest(const float* x, std::int64_t size) noexcept {
  constexpr float lowest = -__builtin_inff();
  vector most = broadcast(lowest);
  std::int64_t i = 0;
  for (; i + vector_lanes <= size; i += vector_lanes) {
    const vector v = load(x + i);
    most = v > most ? v : most;
  }
  float result = lowest;
  for (; i < size; ++i) result = x[i] > result ? x[i] : result;
  for (int lane = 0; lane < vector_lanes; ++lane)
    result = most[lane] > result ? most[lane] : result;
  return result;
}

exp_sums sums_of_exp(const float* x, std::int64_t size, double shift) noexcept {
  double_vector plain{}, weighted{};
  const double_vector by = broadcast_double(shift), zero{};
  for_each_double_vector(x, size, -__builtin_inff(), [&](double_vector v, auto) {
    const double_vector t = v - by, e = exp_of(t);
    plain += e;
    weighted += e == zero ? zero : e * t;
  });
  return {sum_of(plain), sum_of(weighted)};
}

void weigh_exp(float* x, std::int64_t size, double shift, double a, double b) noexcept {
  const double_vector by = broadcast_double(shift), zero{};
  const double_vector constant = broadcast_double(a), slope = broadcast_double(b);
  for_each_double_vector(x, size, 0.0f, [&](double_vector v, auto put) {
    const double_vector t = v - by, e = exp_of(t);
    put(x, e == zero ? zero : -e * (constant + slope * t));
  });
}

}  // namespace

llama::elementwise_kernels ZEROTUNE_DISPATCHED() {
  return {rms_norm, rms_norm_backward, turn,        swiglu,   swiglu_backward, add,
          round,    largest,           sums_of_exp, weigh_exp};
}
