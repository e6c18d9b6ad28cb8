// SPDX-License-Identifier: Apache-2.0
// Prompts from templates: {text}, {context} and {choices} are replaced in one pass, {{ and }} are
// braces. What a row brings is data: special tokens are parsed in the template's own text only.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "llama/tokenizer.hpp"
#include "rows.hpp"

namespace zerotune_cli {

/// A stretch of a prompt. Only the template's own text may name special tokens.
struct prompt_part {
  std::string text;
  bool is_template = false;
};

/// A parsed template; immutable.
class prompt_template {
 public:
  /// @param where  begins messages
  /// @throws usage_error for a brace that is neither doubled nor part of a known field, a template
  ///         without {text}, or text that is not UTF-8
  prompt_template(std::string text, const std::string& where);

  /// The value of --template: literal text, or @FILE for a file's contents less one final newline.
  /// @throws usage_error also if the file cannot be read (at most 1 MiB)
  static prompt_template from_option(const std::string& value);

  /// As it was given (a file's contents, not its name).
  const std::string& text() const { return text_; }

  /// The prompt of a row.
  std::vector<prompt_part> render(const data_row& row) const;

  /// The prompt after few-shot examples: each is the same template with its answer, and a blank
  /// line follows it. @pre every example has a label
  std::vector<prompt_part> render(const data_row& row, std::span<const data_row> examples) const;

 private:
  enum class field { none, text, context, choices };
  struct part {
    std::string literal;
    field name = field::none;
  };
  std::string text_;
  std::vector<part> parts_;
};

/// The tokens of some parts: what lies between two special tokens is tokenised as one text, so that
/// the seams of template and fields leave no trace.
std::vector<int> encode_parts(const llama::tokenizer& tokens, std::span<const prompt_part> parts);

/// The same for the parts that begin a sequence: a bos is put in front if the file wants one and
/// the prompt does not begin with it.
std::vector<int> encode_prompt(const llama::tokenizer& tokens, std::span<const prompt_part> parts);

/// The tokens of an answer that follows a prompt: of a space and the text. Where the tokenizer
/// itself puts a space in front of a text, that is the one.
std::vector<int> encode_answer(const llama::tokenizer& tokens, const std::string& text);

}  // namespace zerotune_cli
