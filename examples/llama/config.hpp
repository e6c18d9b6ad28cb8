// SPDX-License-Identifier: Apache-2.0
// The dimensions and constants of a model, as its file states them.
#pragma once

#include <cstdint>
#include <string>

namespace llama {

class gguf_file;
struct llama2c_checkpoint;

/// Which elements of a head rotary embedding turns together.
enum class rope_pairing {
  interleaved,  ///< (0, 1), (2, 3), ...: files of the architecture `llama`
  split_half,   ///< (0, d/2), (1, d/2 + 1), ... ("NEOX"): `qwen2`
};

/// A decoder-only transformer of the Llama family: RMSNorm, rotary embedding, grouped-query
/// attention, SwiGLU. All counts are positive; `read_config` has checked them.
struct model_config {
  std::string architecture;  ///< "llama" or "qwen2"
  std::string name;          ///< as the file calls it; may be empty
  int num_layers = 0;
  int num_heads = 0;
  int num_kv_heads = 0;  ///< divides num_heads
  int head_dim = 0;
  int embedding_dim = 0;
  int ffn_dim = 0;
  int vocabulary_size = 0;
  int context_length = 0;  ///< longest sequence that the model was made for
  int rope_dim = 0;        ///< elements of a head that are turned; even, at most head_dim
  float rope_base = 10000.0f;
  float rope_scale = 1.0f;  ///< positions are divided by it ("linear" scaling)
  rope_pairing pairing = rope_pairing::interleaved;
  float rms_epsilon = 1e-5f;

  int group_size() const { return num_heads / num_kv_heads; }
  int q_dim() const { return num_heads * head_dim; }
  int kv_dim() const { return num_kv_heads * head_dim; }
};

/// Reads the configuration from a GGUF file's metadata; the vocabulary's size is that of the
/// embedding.
/// @throws format_error for another architecture, an absent count or one out of range, a number of
///         heads that num_kv_heads does not divide, experts, or a scaling of rotary embedding that
///         this host does not know
model_config read_config(const gguf_file& file);

/// The configuration of a checkpoint of llama2.c. @throws format_error as above
model_config read_config(const llama2c_checkpoint& checkpoint);

/// The checks of `read_config` on a configuration from elsewhere.
/// @param where  begins the message
/// @throws format_error as above
void check_config(const model_config& config, const std::string& where);

}  // namespace llama
