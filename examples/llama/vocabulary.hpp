// SPDX-License-Identifier: Apache-2.0
// The tokens of a model: texts, scores, kinds and the ids with a meaning of their own.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "llama/gguf.hpp"

namespace llama {

/// Kinds of tokens by their number in a GGUF file.
enum class token_kind : std::int32_t {
  undefined = 0,
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6,
};

/// One token as the file spells it.
struct vocabulary_token {
  std::string text;    ///< byte-level BPE: in its alphabet; SentencePiece: U+2581 for a space
  float score = 0.0f;  ///< SentencePiece: pairs with larger scores merge first
  token_kind kind = token_kind::normal;
  bool strips_right = false;     ///< as a special token it swallows the white space after it
  bool ends_generation = false;  ///< a model says by this token that it has finished

  /// Found in text only where special tokens are parsed, and never the result of merges.
  bool is_reserved() const { return kind == token_kind::control || kind == token_kind::unknown; }
};

/// An immutable list of tokens with their index by text. Moves keep references; it is not copied.
class vocabulary {
 public:
  /// Settings beside the tokens; an id is -1 where there is none.
  struct settings {
    int bos = -1;
    int eos = -1;
    int unknown = -1;
    bool add_bos = false;           ///< a prompt begins with `bos`
    bool add_space_prefix = false;  ///< SentencePiece: text at the start or after a special token
                                    ///< gets a space in front
  };

  /// @param where names the file in messages.
  /// @throws format_error if two tokens have one text, if a score is NaN or if an id of `ids` is
  ///         no token.
  vocabulary(std::string_view where, std::vector<vocabulary_token> tokens, settings ids);
  vocabulary(vocabulary&&) = default;
  vocabulary& operator=(vocabulary&&) = default;

  /// Reads `tokenizer.ggml.*`. Tokens whose texts are known to end a turn (`<|im_end|>`,
  /// `<|eot_id|>` and others) or to mark gaps for code completion become control tokens whatever
  /// the file calls them.
  /// @param defaults what holds where the file says nothing; ids beyond the tokens count as none.
  /// @throws format_error if something is missing, has another type or length, or is out of range.
  static vocabulary from_gguf(const gguf_file& file, settings defaults);

  int size() const { return static_cast<int>(tokens_.size()); }
  /// @throws std::out_of_range if `id` is no token.
  const vocabulary_token& token(int id) const;
  const settings& ids() const { return settings_; }

  /// The token with this text, -1 if there is none.
  int find(std::string_view text) const;
  /// As `find`, but -1 for a reserved token.
  int find_plain(std::string_view text) const;

  /// Control, unknown and user-defined tokens, the longest text first, then by id.
  const std::vector<int>& special_tokens() const { return special_; }

  /// SHA-256, hexadecimal, over every token in order: the length of its text as 8 bytes,
  /// little-endian, the text, and its kind as one byte.
  std::string hash() const;

 private:
  std::vector<vocabulary_token> tokens_;
  settings settings_;
  std::unordered_map<std::string_view, int> index_;  // views into tokens_
  std::vector<int> special_;
};

}  // namespace llama
