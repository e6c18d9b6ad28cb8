// SPDX-License-Identifier: Apache-2.0
// Decodes the elements of a GGUF tensor to float.
#pragma once

#include <cstddef>
#include <span>

#include "llama/ggml_type.hpp"

namespace llama {

/// Decodes consecutive blocks: `value = scale * quant + offset`, rounded in float.
/// @param type   element type of `blocks`
/// @param blocks the stored blocks, at any alignment, little-endian
/// @param values [blocks * elements of a block], every element is written
/// @throws std::invalid_argument, before anything is written, if the two sizes do not agree or
///         are no whole number of blocks.
void dequantize(ggml_type type, std::span<const std::byte> blocks, std::span<float> values);

}  // namespace llama
