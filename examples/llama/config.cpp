// SPDX-License-Identifier: Apache-2.0
#include "llama/config.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>

#include "llama/format_error.hpp"
#include "llama/gguf.hpp"

namespace llama {
namespace {

// Beyond any model, and small enough that no product of two of them leaves 63 bits.
constexpr std::int64_t most_layers = 4096;
constexpr std::int64_t most_heads = 65536;
constexpr std::int64_t most_elements = std::int64_t{1} << 24;

void require_range(const std::string& where, const char* field, std::int64_t value,
                   std::int64_t most) {
  if (value < 1 || value > most)
    throw format_error(where + ": " + field, "a value in [1, " + std::to_string(most) + "]",
                       std::to_string(value));
}

int find_in(const gguf_file& file, const std::string& key, std::int64_t most, int absent) {
  return file.contains(key) ? static_cast<int>(file.require_in(key, 1, most)) : absent;
}

void read_rope_scaling(const gguf_file& file, const std::string& prefix, model_config& config) {
  const auto type = file.find<std::string_view>(prefix + "rope.scaling.type").value_or("none");
  if (type == "none") return;
  if (type != "linear")
    throw format_error(file.name() + ": " + prefix + "rope.scaling.type",
                       "\"none\", \"linear\" or a tensor rope_freqs.weight", type);
  config.rope_scale = file.require<float>(prefix + "rope.scaling.factor");
}

}  // namespace

void check_config(const model_config& config, const std::string& where) {
  require_range(where, "number of layers", config.num_layers, most_layers);
  require_range(where, "number of heads", config.num_heads, most_heads);
  require_range(where, "number of key-value heads", config.num_kv_heads, config.num_heads);
  require_range(where, "head dimension", config.head_dim, most_elements / config.num_heads);
  require_range(where, "embedding length", config.embedding_dim, most_elements);
  require_range(where, "feed-forward length", config.ffn_dim, most_elements);
  require_range(where, "vocabulary size", config.vocabulary_size, most_elements);
  require_range(where, "context length", config.context_length,
                std::numeric_limits<std::int32_t>::max());
  require_range(where, "rotary dimension", config.rope_dim, config.head_dim);
  if (config.rope_dim % 2 != 0)
    throw format_error(where + ": rotary dimension", "an even number",
                       std::to_string(config.rope_dim));
  if (config.num_heads % config.num_kv_heads != 0)
    throw format_error(
        where + ": number of heads",
        "a multiple of the " + std::to_string(config.num_kv_heads) + " key-value heads",
        std::to_string(config.num_heads));
  const auto require_positive = [&](const char* field, float value) {
    if (!std::isfinite(value) || !(value > 0.0f))
      throw format_error(where + ": " + field, "a finite value > 0", std::to_string(value));
  };
  require_positive("rotary base", config.rope_base);
  require_positive("rotary scale", config.rope_scale);
  require_positive("RMS epsilon", config.rms_epsilon);
}

model_config read_config(const gguf_file& file) {
  model_config config;
  config.architecture = file.require<std::string_view>("general.architecture");
  if (config.architecture != "llama" && config.architecture != "qwen2")
    throw format_error(file.name() + ": general.architecture", "\"llama\" or \"qwen2\"",
                       config.architecture);
  config.name = file.find<std::string_view>("general.name").value_or("");
  config.pairing =
      config.architecture == "llama" ? rope_pairing::interleaved : rope_pairing::split_half;

  const std::string prefix = config.architecture + ".";
  const auto count = [&](const char* key, std::int64_t most) {
    return static_cast<int>(file.require_in(prefix + key, 1, most));
  };
  if (file.find<std::int64_t>(prefix + "expert_count").value_or(0) != 0)
    throw format_error(file.name() + ": " + prefix + "expert_count", "a model without experts",
                       std::to_string(file.require<std::int64_t>(prefix + "expert_count")));
  config.num_layers = count("block_count", most_layers);
  config.num_heads = count("attention.head_count", most_heads);
  config.num_kv_heads =
      find_in(file, prefix + "attention.head_count_kv", most_heads, config.num_heads);
  config.embedding_dim = count("embedding_length", most_elements);
  config.ffn_dim = count("feed_forward_length", most_elements);
  config.context_length = count("context_length", std::numeric_limits<std::int32_t>::max());
  config.head_dim = find_in(file, prefix + "attention.key_length", most_elements,
                            config.embedding_dim / config.num_heads);
  const int value_dim =
      find_in(file, prefix + "attention.value_length", most_elements, config.head_dim);
  if (value_dim != config.head_dim)
    throw format_error(file.name() + ": " + prefix + "attention.value_length",
                       "the length of the keys, " + std::to_string(config.head_dim),
                       std::to_string(value_dim));
  config.rope_dim = find_in(file, prefix + "rope.dimension_count", most_elements, config.head_dim);
  config.rope_base = file.find<float>(prefix + "rope.freq_base").value_or(10000.0f);
  config.rms_epsilon = file.require<float>(prefix + "attention.layer_norm_rms_epsilon");
  read_rope_scaling(file, prefix, config);

  const gguf_tensor& embedding = file.tensor("token_embd.weight");
  if (embedding.num_dims != 2 || embedding.shape[1] > most_elements)
    throw format_error(file.name() + ": token_embd.weight", "a matrix",
                       std::to_string(embedding.num_dims) + " dimensions");
  config.vocabulary_size = static_cast<int>(embedding.shape[1]);
  if (const auto tokens = file.find<std::vector<std::string_view>>("tokenizer.ggml.tokens"))
    if (tokens->size() > static_cast<std::size_t>(config.vocabulary_size))
      throw format_error(
          file.name() + ": tokenizer.ggml.tokens",
          "at most the " + std::to_string(config.vocabulary_size) + " rows of token_embd.weight",
          std::to_string(tokens->size()));
  check_config(config, file.name());
  return config;
}

}  // namespace llama
