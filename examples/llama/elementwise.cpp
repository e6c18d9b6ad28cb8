// SPDX-License-Identifier: Apache-2.0
#include "llama/elementwise.hpp"

#include <cstdint>

#include "llama/kernels.hpp"

namespace llama {
namespace {

std::int64_t size_of(std::span<const float> row) { return static_cast<std::int64_t>(row.size()); }

/// Turns pairs by their angles times `direction`, 1 or -1.
void turn(std::span<float> heads, int head_dim, std::span<const float> cosines,
          std::span<const float> sines, float direction) {
  current_elementwise_kernels().turn(heads.data(), size_of(heads) / head_dim, head_dim,
                                     cosines.data(), sines.data(), size_of(cosines), direction);
}

}  // namespace

void rms_norm(std::span<const float> x, std::span<const float> weight, float epsilon,
              std::span<float> y) {
  current_elementwise_kernels().rms_norm(x.data(), weight.data(), size_of(x), epsilon, y.data());
}

void rms_norm_backward(std::span<const float> x, std::span<const float> weight, float epsilon,
                       std::span<const float> d_y, std::span<float> d_x) {
  current_elementwise_kernels().rms_norm_backward(x.data(), weight.data(), size_of(x), epsilon,
                                                  d_y.data(), d_x.data());
}

void rotate(std::span<float> heads, int head_dim, std::span<const float> cosines,
            std::span<const float> sines) {
  turn(heads, head_dim, cosines, sines, 1.0f);
}

void rotate_back(std::span<float> heads, int head_dim, std::span<const float> cosines,
                 std::span<const float> sines) {
  turn(heads, head_dim, cosines, sines, -1.0f);
}

void swiglu(std::span<const float> gate, std::span<const float> up, std::span<float> y) {
  current_elementwise_kernels().swiglu(gate.data(), up.data(), y.data(), size_of(y));
}

void swiglu_backward(std::span<const float> gate_up, std::span<const float> d_y,
                     std::span<float> d_gate_up) {
  current_elementwise_kernels().swiglu_backward(gate_up.data(), d_y.data(), d_gate_up.data(),
                                                size_of(d_y));
}

void add(std::span<const float> from, std::span<float> to) {
  current_elementwise_kernels().add(from.data(), to.data(), size_of(from));
}

void round(std::span<const float> from, std::span<zerotune::bfloat16> to) {
  static_assert(sizeof(zerotune::bfloat16) == sizeof(std::uint16_t));
  current_elementwise_kernels().round(from.data(), reinterpret_cast<std::uint16_t*>(to.data()),
                                      size_of(from));
}

}  // namespace llama
