// SPDX-License-Identifier: Apache-2.0
// Text to token ids and back, with the vocabulary of a model's file.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "llama/gguf.hpp"
#include "llama/pre_tokenizer.hpp"
#include "llama/vocabulary.hpp"

namespace llama {

/// A tokenizer: immutable, cheap to copy, and safe to use from several threads.
///
/// Ids equal those of llama.cpp. Two things differ on purpose: a reserved token (a control token
/// or the unknown one) comes out only where special tokens are parsed, even if merges could spell
/// it, so that untrusted text cannot forge a turn; and code points above U+10FFFF are invalid
/// bytes.
class tokenizer {
 public:
  /// Reads the vocabulary of a file, which need not hold a model.
  ///
  /// `tokenizer.ggml.model` is `gpt2` (byte-level BPE, with a pre-tokenizer that
  /// `pre_tokenizer::supports`) or `llama` (SentencePiece).
  /// @throws format_error if the vocabulary is not of these kinds, incomplete or inconsistent.
  static tokenizer from_gguf(const gguf_file& file);

  /// A SentencePiece tokenizer on a vocabulary that was read elsewhere.
  /// @param where names the file in messages.
  /// @throws format_error if a byte has no token and there is no unknown token.
  static tokenizer sentencepiece(vocabulary tokens, std::string_view where);

  /// The tokens of untrusted text: control tokens spelled in it are plain text. User-defined tokens
  /// are found first, as llama.cpp does. No bos is added; a file that says so puts a space in
  /// front.
  /// @param text any bytes; those that are no UTF-8 become U+FFFD (BPE) or byte tokens
  /// @throws tokenizer_error if the text cannot be split or is larger than 512 MiB.
  std::vector<int> encode(std::string_view text) const;

  /// As `encode`, but control, unknown and user-defined tokens spelled in the text become that
  /// token: for templates, never for data.
  std::vector<int> encode_template(std::string_view text) const;

  /// The pieces of the tokens one after another, less the one space that the file puts in front.
  /// @throws std::out_of_range if an id is no token.
  std::string decode(std::span<const int> ids) const;

  /// The bytes of one token, perhaps a part of a character; control tokens give their text.
  /// @throws std::out_of_range if `id` is no token.
  std::string piece(int id) const;

  /// Number of tokens.
  int size() const;
  /// The token that begins a sequence, -1 if there is none.
  int bos_id() const;
  /// The token that ends a sequence, -1 if there is none.
  int eos_id() const;
  /// Whether the file wants `bos_id` in front of a prompt.
  bool add_bos() const;
  /// @throws std::out_of_range if `id` is no token.
  bool is_control(int id) const;
  /// Whether a model that emits this token has finished its turn.
  /// @throws std::out_of_range if `id` is no token.
  bool is_end_of_generation(int id) const;
  /// The token whose text is exactly this, such as "<|im_end|>"; -1 if there is none.
  int find(std::string_view text) const;
  /// SHA-256, hexadecimal, over the texts and kinds of all tokens: equal for equal vocabularies.
  std::string vocabulary_hash() const;

 private:
  struct state;
  explicit tokenizer(std::shared_ptr<const state> shared) : state_(std::move(shared)) {}

  enum class reserved_tokens { are_text, are_parsed };
  std::vector<int> encode(std::string_view text, reserved_tokens reserved) const;

  std::shared_ptr<const state> state_;
};

}  // namespace llama
