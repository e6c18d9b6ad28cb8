// SPDX-License-Identifier: Apache-2.0
// Splits text into the words within which byte-level BPE merges.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace llama {

/// Text that cannot be split: PCRE2 reached a limit or failed.
struct tokenizer_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Well-formed text for text of any bytes: each byte that does not belong to a character becomes
/// U+FFFD, and overlong forms become the shortest. Surrogates stay as they are.
std::string replace_invalid_utf8(std::string_view text);

/// The regular expressions of one family of models, applied one after another, each to the pieces
/// that the one before has left.
///
/// White space, letters and numbers are those of PCRE2's Unicode tables; characters that these do
/// not know yet count as symbols.
class pre_tokenizer {
 public:
  /// Whether a file's `tokenizer.ggml.pre` is one of the supported names.
  static bool supports(std::string_view name);
  /// The supported names, separated by commas.
  static std::string supported_names();

  /// @pre `supports(name)`.
  /// @throws tokenizer_error if PCRE2 cannot compile an expression.
  explicit pre_tokenizer(std::string_view name);

  /// Whether a word that is a token is taken whole, without merging (Llama 3).
  bool ignores_merges() const;
  /// Whether models of this family begin with a bos unless their file says otherwise.
  bool adds_bos() const;

  /// Splits a text into its words, which in order make up the text.
  /// @param text as `replace_invalid_utf8` returns it.
  /// @return views into `text`.
  /// @throws tokenizer_error if PCRE2 reaches a limit. The time is linear in the text's length.
  std::vector<std::string_view> split(std::string_view text) const;

 private:
  struct family;
  struct expression;
  static const std::vector<family>& families();
  static const family* find(std::string_view name);  // null if it is not supported

  const family* family_;
  std::shared_ptr<const std::vector<expression>> expressions_;
};

}  // namespace llama
