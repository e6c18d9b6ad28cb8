// SPDX-License-Identifier: Apache-2.0
#include "llama/sequence_checks.hpp"

#include <stdexcept>

namespace llama {
namespace {

std::string below(std::int64_t end) { return "a value in [0, " + std::to_string(end) + ")"; }

}  // namespace

void sequence_name::fail(const std::string& what, const std::string& expected,
                         const std::string& got) const {
  throw std::invalid_argument(std::string(function) + ": " + list + "[" + std::to_string(index) +
                              "] " + what + ": expected " + expected + ", got " + got);
}

void check_tokens(const sequence_name& name, const std::string& what, std::span<const int> tokens,
                  const model_config& config) {
  if (tokens.empty()) name.fail(what, "at least one", "none");
  for (std::size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i] < 0 || tokens[i] >= config.vocabulary_size)
      name.fail(what + "[" + std::to_string(i) + "]", below(config.vocabulary_size),
                std::to_string(tokens[i]));
}

void check_logits_at(const sequence_name& name, std::span<const int> logits_at, std::int64_t rows) {
  for (std::size_t i = 0; i < logits_at.size(); ++i) {
    const std::string what = "logits_at[" + std::to_string(i) + "]";
    const int at = logits_at[i];
    if (at < 0 || at >= rows) name.fail(what, below(rows), std::to_string(at));
    if (i > 0 && at <= logits_at[i - 1])
      name.fail(what, "more than " + std::to_string(logits_at[i - 1]), std::to_string(at));
  }
}

void check_length(const sequence_name& name, const std::string& what, std::int64_t length,
                  const model_config& config) {
  if (length > config.context_length)
    name.fail(what, "at most context_length = " + std::to_string(config.context_length),
              std::to_string(length));
}

}  // namespace llama
