// SPDX-License-Identifier: Apache-2.0
// A GGUF file with its matrices in another format, to see what the weights' format does to tuning.
#pragma once

#include <cstddef>
#include <iosfwd>
#include <span>
#include <string>

#include "llama/ggml_type.hpp"

namespace zerotune_reproduce {

/// Encodes consecutive elements as f16, q8_0 or q4_0. Each block of 32 elements of a quantised type
/// gets the scale that represents its largest magnitude; values are rounded to nearest, ties away
/// from zero (to even in f16).
/// @param values  finite; for a quantised type a multiple of 32
/// @throws std::invalid_argument for another type, or a number of values that is no multiple
std::string encode(llama::ggml_type type, std::span<const float> values);

/// Writes the model in `bytes` with every tensor of two or more dimensions in `type`. All else is
/// kept byte for byte: metadata (so general.file_type still names the old format), other tensors,
/// and the order.
/// @throws llama::format_error for what is no GGUF file, or holds a type that this host does not
///         read; std::invalid_argument as encode does
void requantise(std::span<const std::byte> bytes, llama::ggml_type type, std::ostream& out);

}  // namespace zerotune_reproduce
