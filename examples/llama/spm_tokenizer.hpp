// SPDX-License-Identifier: Apache-2.0
// SentencePiece's byte-pair encoding with scores, as Llama 2 and Phi-3 use it.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "llama/vocabulary.hpp"

namespace llama {

/// Merges the pair of neighbours whose joint text is the token with the largest score (the leftmost
/// of equals) until no pair is a token; a character that is none becomes the tokens of its bytes.
/// Reserved tokens never come out.
///
/// A file's `remove_extra_whitespaces` has no effect, as in llama.cpp: no model of this kind sets
/// it.
class spm_tokenizer {
 public:
  /// @param tokens must outlive the result at the same address.
  /// @throws format_error, with `where` in front, if a byte has no token and there is no unknown
  ///         token to stand for it.
  spm_tokenizer(const vocabulary& tokens, std::string_view where);

  /// Appends the tokens of a text. Bytes that are no UTF-8 become byte tokens.
  /// Costs O(n log n) in the length of the text.
  /// @param text with plain spaces, and the space in front if there is to be one
  void encode(std::string_view text, std::vector<int>& ids) const;

  /// The text of a normal token with plain spaces.
  static std::string decode(std::string_view token_text);

  /// The byte that the text of a byte token names, such as `<0x0A>`; -1 for any other text.
  static int byte_of(std::string_view token_text);

 private:
  const vocabulary* tokens_;
  std::array<int, 256> byte_tokens_;
  std::size_t longest_ = 0;  // bytes of the longest token
};

}  // namespace llama
