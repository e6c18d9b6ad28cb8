// SPDX-License-Identifier: Apache-2.0
// Byte-level byte-pair encoding, as GPT-2 and its successors use it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "llama/pre_tokenizer.hpp"
#include "llama/vocabulary.hpp"

namespace llama {

/// Splits text into words, and within each word merges the pair of neighbours with the lowest rank
/// (the leftmost of equals) until no pair has a rank. Symbols are bytes, written in an alphabet of
/// 256 printable characters. Reserved tokens never come out.
class bpe_tokenizer {
 public:
  /// @param tokens must outlive the result at the same address.
  /// @param merges "left right" in the order of their ranks.
  /// @throws format_error, with `where` in front, if a merge is not two symbols.
  bpe_tokenizer(const vocabulary& tokens, const std::vector<std::string_view>& merges,
                pre_tokenizer splitter, std::string_view where);

  /// Appends the tokens of a text. Bytes that are no UTF-8 become U+FFFD.
  /// Costs O(n log n) in the length of the text.
  /// @throws tokenizer_error if the text cannot be split.
  void encode(std::string_view text, std::vector<int>& ids) const;

  /// The bytes that a token's text stands for; a character outside the alphabet stands for itself.
  static std::string decode(std::string_view token_text);

 private:
  struct merge {
    int rank;
    int result;  // the merged symbol
  };

  int intern(std::string_view text);
  void merge_word(std::string_view word, std::vector<int>& ids) const;
  void append_symbol(int symbol, std::vector<int>& ids) const;

  const vocabulary* tokens_;
  pre_tokenizer splitter_;
  std::array<int, 256> byte_symbols_;
  std::unordered_map<std::uint64_t, merge> merges_;  // by left << 32 | right
  // A symbol is a token's id, or beyond those a text that is no token.
  std::unordered_map<std::string, int> other_symbols_;
  std::vector<std::string> other_texts_;
};

}  // namespace llama
