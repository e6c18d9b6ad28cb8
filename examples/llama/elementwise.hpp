// SPDX-License-Identifier: Apache-2.0
// What a layer does between its products, a row at a time.
#pragma once

#include <span>

#include "zerotune/core/float16.hpp"

namespace llama {

/// y = x / rms(x) * weight. All of one length; `y` may be `x`.
void rms_norm(std::span<const float> x, std::span<const float> weight, float epsilon,
              std::span<float> y);

/// dL/dx += the gradient through rms_norm(x) with dL/dy. @param d_y must not overlap d_x
void rms_norm_backward(std::span<const float> x, std::span<const float> weight, float epsilon,
                       std::span<const float> d_y, std::span<float> d_x);

/// Turns the pairs (i, i + d/2) of every head in place, d = 2 * cosines.size().
/// @param heads   num_heads heads of head_dim elements, head_dim >= d
/// @param cosines [d/2], of the position's angles; @param sines likewise
void rotate(std::span<float> heads, int head_dim, std::span<const float> cosines,
            std::span<const float> sines);

/// Turns them back, which is also what the gradient needs.
void rotate_back(std::span<float> heads, int head_dim, std::span<const float> cosines,
                 std::span<const float> sines);

/// y = silu(gate) * up, silu(g) = g / (1 + e^-g). All of one length.
void swiglu(std::span<const float> gate, std::span<const float> up, std::span<float> y);

/// The gradient through swiglu(): dL/dgate, then dL/dup. @param gate_up the gate's row, then up's
/// @param d_gate_up must not overlap an input
void swiglu_backward(std::span<const float> gate_up, std::span<const float> d_y,
                     std::span<float> d_gate_up);

/// to += from, of one length.
void add(std::span<const float> from, std::span<float> to);

/// Rounds to the nearest bfloat16, ties to even; NaN stays one. Of one length.
void round(std::span<const float> from, std::span<zerotune::bfloat16> to);

}  // namespace llama
