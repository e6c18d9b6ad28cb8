// SPDX-License-Identifier: Apache-2.0
// A model of a few thousand weights made from a seed, for what does not need a real one.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <string_view>

#include "llama/model.hpp"

namespace llama::test {

/// Any tensor in any shape: uniform values that give activations of about 1.
class random_source final : public tensor_source {
 public:
  explicit random_source(std::uint64_t seed) : seed_(seed) {}
  bool contains(std::string_view name) const override { return name.ends_with("attn_q.bias"); }
  void read(std::string_view name, matrix& to) const override {
    std::uint64_t seed = seed_;
    for (const char c : name) seed = seed * 1099511628211u + static_cast<unsigned char>(c);
    std::mt19937_64 generator(seed);
    const bool norm = name.find("norm") != std::string_view::npos;
    const double spread = norm ? 0.25 : 1.5 / std::sqrt(static_cast<double>(to.columns()));
    for (float& value : to.values()) {
      const double u = static_cast<double>(generator() >> 11) * 0x1p-53 - 0.5;
      value = static_cast<float>((norm ? 1.0 : 0.0) + 2.0 * spread * u);
    }
  }

 private:
  std::uint64_t seed_;
};

/// Three layers, 6 query and 2 key-value heads of 20; no size is a multiple of a vector's.
inline model make_small_model(std::uint64_t seed = 1, gemm_kind kind = llama::default_gemm()) {
  model_config config;
  config.architecture = "llama";
  config.num_layers = 3;
  config.num_heads = 6;
  config.num_kv_heads = 2;
  config.head_dim = 20;
  config.rope_dim = 12;
  config.embedding_dim = 77;
  config.ffn_dim = 131;
  config.vocabulary_size = 211;
  config.context_length = 512;
  return model(config, load_weights(config, random_source(seed), kind));
}

/// Tokens from a seed. @param length how many; the first is 1
inline std::vector<int> random_tokens(int length, int vocabulary_size, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<int> tokens{1};
  while (static_cast<int>(tokens.size()) < length)
    tokens.push_back(static_cast<int>(generator() % static_cast<std::uint64_t>(vocabulary_size)));
  return tokens;
}

}  // namespace llama::test
