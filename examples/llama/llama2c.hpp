// SPDX-License-Identifier: Apache-2.0
// Readers of the two files of a llama2.c model: the version 0 checkpoint and its tokenizer.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "llama/format_error.hpp"
#include "llama/tokenizer.hpp"

namespace llama {

/// A Llama model in float. Matrices are row-major, [outputs, inputs]; per-layer tensors hold all
/// layers one after another.
struct llama2c_checkpoint {
  std::size_t embedding_dim;
  std::size_t hidden_dim;
  std::size_t num_layers;
  std::size_t num_heads;
  std::size_t num_kv_heads;
  std::size_t vocabulary_size;
  std::size_t context_length;
  std::size_t head_dim;     ///< embedding_dim / num_heads
  bool has_own_classifier;  ///< false: `classifier` equals `token_embedding`

  std::vector<float> token_embedding;  ///< [vocabulary_size, embedding_dim]
  std::vector<float> attention_norm;   ///< [num_layers, embedding_dim]
  std::vector<float> wq;               ///< [num_layers, embedding_dim, embedding_dim]
  std::vector<float> wk;               ///< [num_layers, num_kv_heads * head_dim, embedding_dim]
  std::vector<float> wv;               ///< as `wk`
  std::vector<float> wo;               ///< as `wq`
  std::vector<float> ffn_norm;         ///< [num_layers, embedding_dim]
  std::vector<float> w1;               ///< [num_layers, hidden_dim, embedding_dim] (gate)
  std::vector<float> w2;               ///< [num_layers, embedding_dim, hidden_dim] (down)
  std::vector<float> w3;               ///< [num_layers, hidden_dim, embedding_dim] (up)
  std::vector<float> final_norm;       ///< [embedding_dim]
  std::vector<float> classifier;       ///< [vocabulary_size, embedding_dim]
};

/// Reads a version 0 checkpoint: seven 32-bit integers, then floats. A negative vocabulary size
/// says that the classifier has weights of its own. The rotary tables of the format are skipped;
/// rotation pairs neighbouring elements (2i, 2i + 1).
/// @throws format_error if a number of the header is out of range or the file has another size
///         than the header implies; std::system_error if it cannot be opened.
llama2c_checkpoint read_llama2c_checkpoint(const std::filesystem::path& path);

/// As above, of a file in memory.
/// @param name stands for the file's name in messages.
llama2c_checkpoint parse_llama2c_checkpoint(std::span<const std::byte> bytes,
                                            const std::string& name);

/// Reads a tokenizer file: the longest length, then a score, a length and the bytes of each token.
/// Tokens 0, 1 and 2 are unknown, bos and eos ("<unk>", "<s>", "</s>"), tokens 3 to 258 the bytes.
/// @param vocabulary_size of the checkpoint; the file must hold as many tokens.
/// @throws format_error if the file is malformed, std::system_error if it cannot be opened.
tokenizer read_llama2c_tokenizer(const std::filesystem::path& path, std::size_t vocabulary_size);

/// As above, of a file in memory.
tokenizer parse_llama2c_tokenizer(std::span<const std::byte> bytes, std::size_t vocabulary_size,
                                  const std::string& name);

}  // namespace llama
