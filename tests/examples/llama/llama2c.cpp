// SPDX-License-Identifier: Apache-2.0
#include "llama/llama2c.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>

#include "gguf_writer.hpp"
#include "llama/sha256.hpp"
#include "reference_file.hpp"

namespace llama {
namespace {

using test::as_bytes;
using test::gguf_writer;

// dim 4, hidden 6, 2 layers, 2 heads, 1 key-value head, 5 tokens, 3 positions; the floats count up.
std::string small_checkpoint(std::int32_t vocabulary_size, std::int32_t num_kv_heads = 1) {
  gguf_writer writer;
  for (const std::int32_t number : {4, 6, 2, 2, num_kv_heads, vocabulary_size, 3}) {
    writer.number(number);
  }
  const int embedding = 5 * 4;
  const int layer = 4 + 4 * 4 + 4 * 2 + 4 * 2 + 4 * 4 + 4 + 3 * 6 * 4;
  const int count = embedding + 2 * layer + 4 + 3 * 2 + (vocabulary_size < 0 ? embedding : 0);
  for (int i = 0; i < count; ++i) writer.number(static_cast<float>(i));
  return writer.bytes();
}

llama2c_checkpoint parse(const std::string& bytes) {
  return parse_llama2c_checkpoint(as_bytes(bytes), "file");
}

TEST(llama2c, reads_tensors_in_the_order_of_the_file) {
  for (const std::int32_t vocabulary_size : {5, -5}) {
    const llama2c_checkpoint model = parse(small_checkpoint(vocabulary_size));
    EXPECT_EQ(model.embedding_dim, 4u);
    EXPECT_EQ(model.hidden_dim, 6u);
    EXPECT_EQ(model.num_layers, 2u);
    EXPECT_EQ(model.num_heads, 2u);
    EXPECT_EQ(model.num_kv_heads, 1u);
    EXPECT_EQ(model.vocabulary_size, 5u);
    EXPECT_EQ(model.context_length, 3u);
    EXPECT_EQ(model.head_dim, 2u);
    float next = 0;
    const auto expect = [&next](const std::vector<float>& tensor, std::size_t size) {
      ASSERT_EQ(tensor.size(), size);
      EXPECT_EQ(tensor.front(), next);
      EXPECT_EQ(tensor.back(), next + static_cast<float>(size - 1));
      next += static_cast<float>(size);
    };
    expect(model.token_embedding, 20);
    expect(model.attention_norm, 8);
    expect(model.wq, 32);
    expect(model.wk, 16);
    expect(model.wv, 16);
    expect(model.wo, 32);
    expect(model.ffn_norm, 8);
    expect(model.w1, 48);
    expect(model.w2, 48);
    expect(model.w3, 48);
    expect(model.final_norm, 4);
    next += 6;  // the rotary tables
    EXPECT_EQ(model.has_own_classifier, vocabulary_size < 0);
    if (model.has_own_classifier) {
      expect(model.classifier, 20);
    } else {
      EXPECT_EQ(model.classifier, model.token_embedding);
    }
  }
}

TEST(llama2c, every_truncation_and_any_addition_is_refused) {
  for (const std::int32_t vocabulary_size : {5, -5}) {
    const std::string bytes = small_checkpoint(vocabulary_size);
    for (std::size_t size = 0; size < bytes.size(); ++size) {
      const std::string part = bytes.substr(0, size);
      EXPECT_THROW(parse(part), format_error) << size;
    }
    EXPECT_THROW(parse(bytes + "x"), format_error);
  }
}

TEST(llama2c, bad_headers_are_refused) {
  const std::string good = small_checkpoint(5);
  for (std::size_t field = 0; field < 7; ++field) {
    const std::int32_t bad[] = {0,         -1, 3, 1 << 24, (1 << 24) + 1, std::int32_t(0x80000000),
                                0x7fffffff};
    for (const std::int32_t number : bad) {
      std::string changed = good;
      changed.replace(4 * field, 4, gguf_writer().number(number).bytes());
      const bool is_right = field == 6 && number == 3;
      if (is_right) continue;
      EXPECT_THROW(parse(changed), format_error) << field << " = " << number;
    }
  }
  try {
    parse(small_checkpoint(5, 3));
    FAIL();
  } catch (const format_error& error) {
    EXPECT_STREQ(error.what(),
                 "file: expected key-value heads that divide the heads, found 3 for 2");
  }
}

std::string small_tokenizer() {
  gguf_writer writer;
  writer.number<std::int32_t>(10);
  const auto add = [&writer](float score, std::string_view text) {
    writer.number(score).number(static_cast<std::int32_t>(text.size())).raw(text);
  };
  add(0, "<unk>");
  add(0, "\n<s>\n");
  add(0, "\n</s>\n");
  constexpr std::string_view digits = "0123456789ABCDEF";
  for (std::size_t byte = 0; byte < 256; ++byte) {
    add(0, std::string("<0x") + digits[byte >> 4] + digits[byte & 15] + ">");
  }
  add(-1, " a");
  add(-2, "aa");
  add(-9, " ");
  add(-9, "a");
  return writer.bytes();
}

TEST(llama2c, tokenizer_faults_are_refused) {
  const std::string bytes = small_tokenizer();
  const auto parse_tokens = [](const std::string& file, std::size_t size) {
    return parse_llama2c_tokenizer(as_bytes(file), size, "file");
  };
  const tokenizer tokens = parse_tokens(bytes, 263);
  EXPECT_EQ(tokens.encode("aa b"), (std::vector{259, 262, 261, 3 + 'b'}));
  EXPECT_EQ(tokens.decode(tokens.encode("aa b\xff")), "aa b\xff");
  EXPECT_EQ(tokens.encode_template("<s>"), (std::vector{1}));
  EXPECT_EQ(tokens.bos_id(), 1);
  EXPECT_EQ(tokens.eos_id(), 2);
  EXPECT_TRUE(tokens.add_bos());
  EXPECT_TRUE(tokens.is_end_of_generation(2));
  EXPECT_THROW(parse_tokens(bytes, 262), format_error);
  EXPECT_THROW(parse_tokens(bytes, 264), format_error);
  EXPECT_THROW(parse_tokens(bytes, 0), format_error);
  EXPECT_THROW(parse_tokens(bytes, ~std::size_t{0}), format_error);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_THROW(parse_tokens(bytes.substr(0, size), 263), format_error) << size;
  }
  for (const std::int32_t length : {-1, 11, 0x7fffffff}) {
    std::string changed = bytes;
    changed.replace(8, 4, gguf_writer().number(length).bytes());
    EXPECT_THROW(parse_tokens(changed, 263), format_error) << length;
  }
  std::string other_bytes = bytes;
  other_bytes.replace(other_bytes.find("<0x41>"), 6, "<0x42>");
  EXPECT_THROW(parse_tokens(other_bytes, 263), format_error);
}

TEST(llama2c, stories_model_is_read) {
  const auto path = test::stories_file("stories260K.bin");
  if (path.empty()) GTEST_SKIP() << "no stories260K below ZEROTUNE_DATA_DIR";
  const llama2c_checkpoint model = read_llama2c_checkpoint(path);
  EXPECT_EQ(model.embedding_dim, 64u);
  EXPECT_EQ(model.num_layers, 5u);
  EXPECT_EQ(model.num_heads, 8u);
  EXPECT_EQ(model.num_kv_heads, 4u);
  EXPECT_EQ(model.vocabulary_size, 512u);
  EXPECT_FALSE(model.has_own_classifier);
  for (const float weight : model.final_norm) EXPECT_TRUE(std::isfinite(weight));
}

// By a naive transcription of llama2.c's rule: tests/references/make_tokenizer_reference.py.
TEST(llama2c, stories_tokenizer_agrees_with_the_reference) {
  const auto path = test::stories_file("tok512.bin");
  if (path.empty()) GTEST_SKIP() << "no stories260K below ZEROTUNE_DATA_DIR";
  const test::json reference = test::read_reference("tokenizer_llama2c.json");
  ASSERT_EQ(sha256::of(test::read_file(path)), reference["sha256"].text);
  const tokenizer tokens = read_llama2c_tokenizer(path, 512);
  for (const test::json& test_case : reference["cases"].items) {
    const std::string text = test::decode_base64(test_case["text"].text);
    EXPECT_EQ(tokens.encode(text), test_case["plain"].integers()) << text;
    EXPECT_EQ(tokens.decode(tokens.encode(text)), text);
  }
  EXPECT_GE(reference["cases"].items.size(), 200u);
  EXPECT_EQ(tokens.encode("Once upon a time"), (std::vector{403, 407, 261, 378}));
}

}  // namespace
}  // namespace llama
