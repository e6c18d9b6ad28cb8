// SPDX-License-Identifier: Apache-2.0
// A model's weights as floats, packed for the products.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "llama/config.hpp"
#include "llama/gemm.hpp"
#include "llama/matrix.hpp"

namespace llama {

class gguf_file;
struct llama2c_checkpoint;

/// One layer. Matrices that see the same input are one: their outputs follow one another. Rows of
/// q and k are in the order of rope_pairing::split_half, whatever the file has.
struct layer_weights {
  matrix attention_norm;    ///< [1, embedding_dim]
  linear qkv;               ///< q_dim outputs, then kv_dim of k, then kv_dim of v
  linear attention_output;  ///< q_dim -> embedding_dim
  matrix ffn_norm;          ///< [1, embedding_dim]
  linear gate_up;           ///< ffn_dim outputs of the gate, then ffn_dim
  linear down;              ///< ffn_dim -> embedding_dim
};

/// All of them. A tied embedding is held once, as the output, if that can give its rows back.
struct model_weights {
  std::vector<layer_weights> layers;
  matrix embedding;  ///< [vocabulary_size, embedding_dim], or empty
  matrix output_norm;
  linear output;  ///< embedding_dim -> vocabulary_size
  /// [rope_dim / 2]: pair i of a head at position p is turned by p times this.
  std::vector<double> rope_frequencies;

  /// Writes the embedding of a token. @param row [embedding_dim]
  void embed(int token, std::span<float> row) const;
};

/// Where weights come from: tensors by the names that GGUF gives them.
class tensor_source {
 public:
  virtual ~tensor_source() = default;
  virtual bool contains(std::string_view name) const = 0;
  /// Reads a tensor into `to`, whose shape is that wanted: [outputs, inputs], or [1, length].
  /// @throws format_error if it is absent or has another shape
  virtual void read(std::string_view name, matrix& to) const = 0;
};

/// Reads and packs everything. At no time more than the result and one layer's or the embedding's
/// unpacked floats are held.
/// @throws format_error that names the tensor, what was expected and what was found;
///         std::invalid_argument if this build or CPU has not got `kind`
model_weights load_weights(const model_config& config, const tensor_source& source,
                           gemm_kind kind = default_gemm());

/// The same from a GGUF file, decoded to float, or from a checkpoint of llama2.c.
model_weights load_weights(const model_config& config, const gguf_file& file,
                           gemm_kind kind = default_gemm());
model_weights load_weights(const model_config& config, const llama2c_checkpoint& checkpoint,
                           gemm_kind kind = default_gemm());

}  // namespace llama
