// SPDX-License-Identifier: Apache-2.0
// What forward() and backward() refuse. Messages begin with the function and the sequence.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "llama/config.hpp"

namespace llama {

/// A sequence's name in messages, such as "forward: sequences[3]".
struct sequence_name {
  const char* function;
  const char* list;
  std::size_t index;

  /// @throws std::invalid_argument "function: list[index] what: expected ..., got ..."
  [[noreturn]] void fail(const std::string& what, const std::string& expected,
                         const std::string& got) const;
};

/// @throws std::invalid_argument unless there is a token and all are of the vocabulary
void check_tokens(const sequence_name& name, const std::string& what, std::span<const int> tokens,
                  const model_config& config);

/// @throws std::invalid_argument unless the indices rise strictly and are in [0, rows)
void check_logits_at(const sequence_name& name, std::span<const int> logits_at, std::int64_t rows);

/// @throws std::invalid_argument for more tokens than the model's context
void check_length(const sequence_name& name, const std::string& what, std::int64_t length,
                  const model_config& config);

}  // namespace llama
