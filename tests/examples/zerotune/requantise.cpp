// SPDX-License-Identifier: Apache-2.0
// Weights in other formats: every number is the nearest that its block can say, and a model that
// went through the tool is the same model but for that.
#include "requantise.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "llama/dequantize.hpp"
#include "llama/gguf.hpp"
#include "scratch.hpp"
#include "zerotune/core/float16.hpp"
#include "zerotune/loaded_model.hpp"
#include "zerotune/tuning/random.hpp"

namespace {

using llama::ggml_type;
using zerotune_reproduce::encode;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::vector<float> decode(ggml_type type, const std::string& blocks, std::size_t count) {
  std::vector<float> values(count);
  llama::dequantize(type, bytes_of(blocks), values);
  return values;
}

// Blocks of several sizes of numbers; one of zeros, one with a single spike.
std::vector<float> sample() {
  zerotune::random_source random(7);
  std::vector<float> values;
  for (const float scale : {1.0f, 1e-3f, 300.0f})
    for (int i = 0; i < 32; ++i)
      values.push_back(scale * static_cast<float>(2 * random.uniform() - 1));
  values.insert(values.end(), 32, 0.0f);
  values.insert(values.end(), 31, 0.0f);
  values.push_back(-5);
  return values;
}

// The oracle tries every quant with the scale that the block holds.
void expect_nearest(ggml_type type, std::size_t block_bytes, int least, int most) {
  const std::vector<float> values = sample();
  const std::string blocks = encode(type, values);
  ASSERT_EQ(blocks.size(), values.size() / 32 * block_bytes);
  const std::vector<float> decoded = decode(type, blocks, values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::size_t at = i / 32 * block_bytes;
    const auto bits = static_cast<std::uint16_t>(static_cast<unsigned char>(blocks[at]) |
                                                 static_cast<unsigned char>(blocks[at + 1]) << 8);
    const double scale = static_cast<float>(zerotune::float16::from_bits(bits));
    double best = std::numeric_limits<double>::infinity();
    for (int quant = least; quant <= most; ++quant)
      best = std::min(best, std::fabs(quant * scale - static_cast<double>(values[i])));
    EXPECT_NEAR(std::fabs(static_cast<double>(decoded[i]) - static_cast<double>(values[i])), best,
                1e-6 * std::fabs(scale))
        << "value " << i;
  }
}

TEST(requantise, q8_0_takes_the_nearest_of_its_numbers) {
  expect_nearest(ggml_type::q8_0, 34, -127, 127);
}

TEST(requantise, q4_0_takes_the_nearest_of_its_numbers) {
  expect_nearest(ggml_type::q4_0, 18, -8, 7);
}

// A wrong scale would still take the nearest; it shows in how far the nearest is.
TEST(requantise, the_scale_uses_the_whole_range) {
  const std::vector<float> values = sample();
  const struct {
    ggml_type type;
    double share;  // of the block's largest magnitude that a value may be off
  } cases[] = {{ggml_type::q8_0, 0.51 / 127}, {ggml_type::q4_0, 1.01 / 8}};
  for (const auto& c : cases) {
    const std::vector<float> decoded = decode(c.type, encode(c.type, values), values.size());
    for (std::size_t first = 0; first < values.size(); first += 32) {
      double largest = 0;
      for (std::size_t i = first; i < first + 32; ++i)
        largest = std::max(largest, std::fabs(static_cast<double>(values[i])));
      for (std::size_t i = first; i < first + 32; ++i)
        EXPECT_LE(std::fabs(static_cast<double>(decoded[i]) - static_cast<double>(values[i])),
                  c.share * largest);
    }
  }
}

TEST(requantise, f16_rounds_every_number) {
  const std::vector<float> values = sample();
  const std::vector<float> decoded =
      decode(ggml_type::f16, encode(ggml_type::f16, values), values.size());
  for (std::size_t i = 0; i < values.size(); ++i)
    EXPECT_EQ(decoded[i], static_cast<float>(zerotune::float16(values[i])));
}

TEST(requantise, refuses_other_types_and_broken_blocks) {
  const std::vector<float> values(33);
  EXPECT_THROW(encode(ggml_type::q4_k, values), std::invalid_argument);
  EXPECT_THROW(encode(ggml_type::q8_0, values), std::invalid_argument);
  std::ostringstream out;
  EXPECT_THROW(zerotune_reproduce::requantise(bytes_of("no model"), ggml_type::f16, out),
               llama::format_error);
}

TEST(requantise, a_model_keeps_all_but_its_matrices) {
  const llama::gguf_file before{test::small_model()};
  std::string original;
  {
    std::ostringstream text;
    text << std::ifstream(test::small_model(), std::ios::binary).rdbuf();
    original = text.str();
  }
  const test::scratch_folder folder;
  for (const ggml_type type : {ggml_type::f16, ggml_type::q8_0, ggml_type::q4_0}) {
    std::ostringstream out;
    zerotune_reproduce::requantise(bytes_of(original), type, out);
    const std::string path = folder.write("m.gguf", out.str());
    const llama::gguf_file after{path};
    ASSERT_EQ(after.tensors().size(), before.tensors().size());
    for (std::size_t i = 0; i < before.tensors().size(); ++i) {
      const llama::gguf_tensor &a = before.tensors()[i], &b = after.tensors()[i];
      EXPECT_EQ(a.name, b.name);
      EXPECT_EQ(a.shape, b.shape);
      if (a.num_dims > 1) {
        EXPECT_EQ(b.type_number, static_cast<std::uint32_t>(type)) << a.name;
      } else {
        EXPECT_EQ(b.type_number, a.type_number);
        EXPECT_TRUE(std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end()));
      }
    }
    const zerotune_cli::loaded_model model{path};
    EXPECT_EQ(model.describe().vocabulary_hash,
              zerotune_cli::loaded_model(test::small_model()).describe().vocabulary_hash);
    EXPECT_EQ(model.describe().quantization, llama::layout_of(type).name);
  }
}

}  // namespace
