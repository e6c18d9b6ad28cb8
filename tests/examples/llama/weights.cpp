// SPDX-License-Identifier: Apache-2.0
// Configurations and tensors that do not fit are refused by name; what may be absent may be absent.
#include "llama/weights.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "family_models.hpp"
#include "gguf_writer.hpp"
#include "llama/format_error.hpp"
#include "llama/gguf.hpp"
#include "llama/llama2c.hpp"
#include "small_model.hpp"

namespace {

using llama::format_error;
using llama::model_config;

void expect_format_error(const std::string& part, const std::function<void()>& action) {
  try {
    action();
    FAIL() << "accepted; expected an error with: " << part;
  } catch (const format_error& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(Config, EveryFieldIsChecked) {
  const model_config good = llama::test::make_small_model().config();
  check_config(good, "test");
  const auto refused = [&](const std::string& part, const auto& change) {
    model_config config = good;
    change(config);
    expect_format_error(part, [&] { check_config(config, "test"); });
  };
  refused("test: number of layers: expected a value in [1, 4096], found 0",
          [](model_config& c) { c.num_layers = 0; });
  refused("number of heads", [](model_config& c) { c.num_heads = -6; });
  refused("a multiple of the 2 key-value heads, found 5", [](model_config& c) { c.num_heads = 5; });
  refused("key-value heads", [](model_config& c) { c.num_kv_heads = 0; });
  refused("key-value heads", [](model_config& c) { c.num_kv_heads = 7; });
  refused("head dimension", [](model_config& c) { c.head_dim = 1 << 24; });
  refused("embedding length", [](model_config& c) { c.embedding_dim = 0; });
  refused("feed-forward length", [](model_config& c) { c.ffn_dim = -1; });
  refused("vocabulary size", [](model_config& c) { c.vocabulary_size = 0; });
  refused("context length", [](model_config& c) { c.context_length = 0; });
  refused("rotary dimension", [](model_config& c) { c.rope_dim = 22; });
  refused("rotary dimension: expected an even number", [](model_config& c) { c.rope_dim = 7; });
  refused("rotary base", [](model_config& c) { c.rope_base = std::nanf(""); });
  refused("rotary scale", [](model_config& c) { c.rope_scale = 0.0f; });
  refused("RMS epsilon", [](model_config& c) { c.rms_epsilon = -1e-5f; });
}

/// A qwen2 file whose metadata can be changed and that holds an embedding of 8 tokens by 4.
llama::test::gguf_writer metadata(const std::string& architecture, std::uint32_t heads,
                                  const std::string& scaling = "none") {
  llama::test::gguf_writer writer;
  const std::string prefix = architecture + ".";
  writer.header(1, 8)
      .string_value("general.architecture", architecture)
      .u32_value(prefix + "block_count", 1)
      .u32_value(prefix + "attention.head_count", heads)
      .u32_value(prefix + "embedding_length", 4)
      .u32_value(prefix + "feed_forward_length", 4)
      .u32_value(prefix + "context_length", 16)
      .string(prefix + "attention.layer_norm_rms_epsilon")
      .u32(6)
      .number(1e-6f)
      .string_value(prefix + "rope.scaling.type", scaling)
      .tensor("token_embd.weight", {4, 8}, 0, 0)
      .pad()
      .raw(std::string(128, '\0'));
  return writer;
}

model_config config_of(llama::test::gguf_writer writer) {
  return read_config(llama::gguf_file::from_memory(llama::test::as_bytes(writer.bytes()), "file"));
}

TEST(Config, IsReadFromMetadata) {
  const model_config config = config_of(metadata("qwen2", 2));
  EXPECT_EQ(config.num_kv_heads, 2);
  EXPECT_EQ(config.head_dim, 2);
  EXPECT_EQ(config.rope_dim, 2);
  EXPECT_EQ(config.vocabulary_size, 8);
  EXPECT_EQ(config.rope_base, 10000.0f);
  EXPECT_EQ(config.pairing, llama::rope_pairing::split_half);
  EXPECT_EQ(config_of(metadata("llama", 2)).pairing, llama::rope_pairing::interleaved);
}

TEST(Config, WhatThisHostCannotRunIsRefused) {
  expect_format_error("general.architecture", [] { config_of(metadata("gemma3", 2)); });
  expect_format_error("head_count", [] { config_of(metadata("llama", 0)); });
  expect_format_error("head_count", [] { config_of(metadata("llama", 4000000000u)); });
  expect_format_error("rope.scaling.type", [] { config_of(metadata("llama", 2, "yarn")); });
  expect_format_error("rope.scaling.factor", [] { config_of(metadata("llama", 2, "linear")); });
}

TEST(Weights, ATensorThatIsAbsentIsNamed) {
  auto writer = metadata("qwen2", 2);
  const auto file = llama::gguf_file::from_memory(llama::test::as_bytes(writer.bytes()), "file");
  expect_format_error("blk.0.attn_norm.weight", [&] { load_weights(read_config(file), file); });
}

TEST(Weights, ATensorOfAnotherShapeIsNamedWithBoth) {
  const std::vector<std::byte> bytes =
      llama_test::make_family_model(llama_test::model_family::qwen_2_5);
  const auto file = llama::gguf_file::from_memory(bytes, "file");
  model_config config = read_config(file);
  config.ffn_dim = 256;
  expect_format_error(
      "tensor blk.0.ffn_gate.weight: expected rows of 896, 256 of them, found rows of 896, 512",
      [&] { load_weights(config, file); });
}

TEST(Weights, AnInterleavedFileIsReorderedSoThatLogitsStay) {
  // One model in both orders: the same logits, up to the order of the sums over a head.
  class reordered final : public llama::tensor_source {
   public:
    reordered(const llama::tensor_source& inner, const model_config& config)
        : inner_(inner), config_(config) {}
    bool contains(std::string_view name) const override { return inner_.contains(name); }
    void read(std::string_view name, llama::matrix& to) const override {
      inner_.read(name, to);
      const bool q = name.find("attn_q") != std::string_view::npos;
      if (!q && name.find("attn_k") == std::string_view::npos) return;
      const std::int64_t columns =
          static_cast<std::int64_t>(to.values().size()) / (q ? config_.q_dim() : config_.kv_dim());
      const std::vector<float> before(to.values().begin(), to.values().end());
      const std::int64_t half = config_.rope_dim / 2;
      for (int head = 0; head < (q ? config_.num_heads : config_.num_kv_heads); ++head)
        for (std::int64_t i = 0; i < config_.rope_dim; ++i) {
          // Row i of the split order goes to 2i, or to 2 (i - half) + 1.
          const std::int64_t j = i < half ? 2 * i : 2 * (i - half) + 1;
          const std::int64_t first = std::int64_t{head} * config_.head_dim;
          std::copy_n(before.data() + (first + i) * columns, columns,
                      to.data() + (first + j) * columns);
        }
    }

   private:
    const llama::tensor_source& inner_;
    const model_config& config_;
  };
  const llama::test::random_source source(3);
  model_config split = llama::test::make_small_model().config();
  split.pairing = llama::rope_pairing::split_half;
  model_config interleaved = split;
  interleaved.pairing = llama::rope_pairing::interleaved;
  const llama::model a(split, load_weights(split, source));
  const llama::model b(interleaved, load_weights(interleaved, reordered(source, interleaved)));
  const std::vector<int> tokens = llama::test::random_tokens(40, 211, 1);
  const int last = 39;
  const llama::sequence run{tokens, nullptr, std::span(&last, 1)};
  llama::workspace space;
  llama::matrix x, y;
  forward(a, llama::untouched{}, std::span(&run, 1), space, x);
  forward(b, llama::untouched{}, std::span(&run, 1), space, y);
  for (std::size_t i = 0; i < 211; ++i) EXPECT_EQ(x.values()[i], y.values()[i]) << i;
}

TEST(Weights, RopeFactorsMustBePositive) {
  class with_factor final : public llama::tensor_source {
   public:
    explicit with_factor(float factor) : factor_(factor) {}
    bool contains(std::string_view name) const override { return name == "rope_freqs.weight"; }
    void read(std::string_view name, llama::matrix& to) const override {
      if (!contains(name)) return inner_.read(name, to);
      std::ranges::fill(to.values(), factor_);
    }

   private:
    llama::test::random_source inner_{1};
    float factor_;
  };
  const model_config config = llama::test::make_small_model().config();
  const auto weights = load_weights(config, with_factor(4.0f));
  EXPECT_DOUBLE_EQ(weights.rope_frequencies[0], 0.25);
  for (const float bad : {0.0f, -1.0f, std::nanf("")})
    expect_format_error("rope_freqs.weight[0]", [&] { load_weights(config, with_factor(bad)); });
}

// By a kind of product that gives its rows back, that is; another one needs the embedding beside
// it.
TEST(Weights, ATiedEmbeddingIsHeldOnce) {
  model_config config = llama::test::make_small_model().config();
  const llama::test::random_source source(1);
  llama::matrix expected(config.vocabulary_size, config.embedding_dim);
  source.read("token_embd.weight", expected);
  std::vector<float> row(static_cast<std::size_t>(config.embedding_dim));
  for (const auto kind : {llama::gemm_kind::eigen, llama::default_gemm()}) {
    const auto weights = load_weights(config, source, kind);
    EXPECT_EQ(weights.embedding.rows() == 0, weights.output.weights().can_unpack());
    EXPECT_TRUE(kind != llama::gemm_kind::eigen || weights.embedding.rows() == 0);
    for (const int token : {0, 100, 210}) {
      weights.embed(token, row);
      EXPECT_TRUE(std::ranges::equal(row, expected.row(token)));
    }
  }
}

}  // namespace
