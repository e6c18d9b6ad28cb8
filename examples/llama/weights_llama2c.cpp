// SPDX-License-Identifier: Apache-2.0
// A checkpoint of llama2.c under the names that GGUF gives its tensors.
#include <algorithm>
#include <charconv>
#include <limits>
#include <utility>

#include "llama/format_error.hpp"
#include "llama/llama2c.hpp"
#include "llama/weights.hpp"

namespace llama {
namespace {

class llama2c_source final : public tensor_source {
 public:
  explicit llama2c_source(const llama2c_checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  bool contains(std::string_view name) const override { return !find(name).empty(); }

  void read(std::string_view name, matrix& to) const override {
    const std::span<const float> values = find(name);
    if (values.size() != to.values().size())
      throw format_error("tensor " + std::string(name),
                         std::to_string(to.values().size()) + " values",
                         std::to_string(values.size()));
    std::ranges::copy(values, to.data());
  }

 private:
  /// The tensor's values, empty if there is none of that name.
  std::span<const float> find(std::string_view name) const {
    const llama2c_checkpoint& c = checkpoint_;
    if (name == "token_embd.weight") return c.token_embedding;
    if (name == "output_norm.weight") return c.final_norm;
    if (name == "output.weight" && c.has_own_classifier) return c.classifier;
    if (!name.starts_with("blk.")) return {};
    name.remove_prefix(4);
    std::size_t layer = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
    if (error != std::errc() || layer >= c.num_layers) return {};
    name.remove_prefix(static_cast<std::size_t>(end - name.data()));
    const std::pair<std::string_view, const std::vector<float>*> tensors[] = {
        {".attn_norm.weight", &c.attention_norm},
        {".attn_q.weight", &c.wq},
        {".attn_k.weight", &c.wk},
        {".attn_v.weight", &c.wv},
        {".attn_output.weight", &c.wo},
        {".ffn_norm.weight", &c.ffn_norm},
        {".ffn_gate.weight", &c.w1},
        {".ffn_down.weight", &c.w2},
        {".ffn_up.weight", &c.w3}};
    for (const auto& [suffix, values] : tensors)
      if (name == suffix) {
        const std::size_t size = values->size() / c.num_layers;
        return std::span<const float>(*values).subspan(layer * size, size);
      }
    return {};
  }

  const llama2c_checkpoint& checkpoint_;
};

}  // namespace

model_config read_config(const llama2c_checkpoint& checkpoint) {
  const auto count = [](std::size_t value) {
    return static_cast<int>(std::min<std::size_t>(value, std::numeric_limits<int>::max()));
  };
  model_config config;
  config.architecture = "llama";
  config.num_layers = count(checkpoint.num_layers);
  config.num_heads = count(checkpoint.num_heads);
  config.num_kv_heads = count(checkpoint.num_kv_heads);
  config.head_dim = config.rope_dim = count(checkpoint.head_dim);
  config.embedding_dim = count(checkpoint.embedding_dim);
  config.ffn_dim = count(checkpoint.hidden_dim);
  config.vocabulary_size = count(checkpoint.vocabulary_size);
  config.context_length = count(checkpoint.context_length);
  check_config(config, "llama2.c checkpoint");
  return config;
}

model_weights load_weights(const model_config& config, const llama2c_checkpoint& checkpoint,
                           gemm_kind kind) {
  return load_weights(config, llama2c_source(checkpoint), kind);
}

}  // namespace llama
