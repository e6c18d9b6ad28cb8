// SPDX-License-Identifier: Apache-2.0
#include "llama/dequantize.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "gguf_writer.hpp"
#include "llama/gguf.hpp"
#include "reference_file.hpp"

namespace llama {
namespace {

using test::as_bytes;

constexpr ggml_type all_types[] = {ggml_type::f32,  ggml_type::f16,  ggml_type::bf16,
                                   ggml_type::q4_0, ggml_type::q4_1, ggml_type::q5_0,
                                   ggml_type::q5_1, ggml_type::q8_0, ggml_type::q4_k,
                                   ggml_type::q5_k, ggml_type::q6_k};

class dequantize_type : public testing::TestWithParam<ggml_type> {};

// Values by the gguf package's numpy code, which does the same operations in float; a compiler may
// fuse the multiplication and the addition, which drops one rounding of half a unit (6e-8).
TEST_P(dequantize_type, equals_the_reference) {
  const block_layout& layout = layout_of(GetParam());
  const test::json reference = test::read_reference("dequantize.json")[std::string(layout.name)];
  EXPECT_EQ(find_ggml_type(static_cast<std::uint32_t>(reference["number"].integer())), GetParam());
  const std::string blocks = test::decode_base64(reference["blocks"].text);
  const std::string expected_bytes = test::decode_base64(reference["values"].text);
  std::vector<float> expected(expected_bytes.size() / 4);
  std::memcpy(expected.data(), expected_bytes.data(), expected_bytes.size());
  ASSERT_EQ(blocks.size() / layout.num_bytes * layout.num_elements, expected.size());

  const std::string shifted = "x" + blocks;  // blocks may lie at any address
  std::vector<float> values(expected.size(), std::nanf(""));
  dequantize(GetParam(), as_bytes(shifted).subspan(1), values);
  float largest = 0;
  for (const float value : expected) {
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  }
  const bool is_quantised = layout.num_elements > 1;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (is_quantised) {
      EXPECT_NEAR(values[i], expected[i], largest * 2e-7f) << i;
    } else {
      EXPECT_EQ(values[i], expected[i]) << i;
    }
  }
}

TEST_P(dequantize_type, refuses_sizes_that_disagree) {
  const block_layout& layout = layout_of(GetParam());
  const std::vector<std::byte> blocks(2 * layout.num_bytes);
  std::vector<float> values(2 * layout.num_elements + 1, 7.0f);
  const std::span all(values);
  EXPECT_NO_THROW(dequantize(GetParam(), {}, {}));
  EXPECT_NO_THROW(dequantize(GetParam(), blocks, all.first(2 * layout.num_elements)));
  std::fill(values.begin(), values.end(), 7.0f);
  EXPECT_THROW(dequantize(GetParam(), blocks, all), std::invalid_argument);
  EXPECT_THROW(dequantize(GetParam(), blocks, all.first(layout.num_elements)),
               std::invalid_argument);
  EXPECT_THROW(dequantize(GetParam(), std::span(blocks).first(blocks.size() - 1),
                          all.first(2 * layout.num_elements)),
               std::invalid_argument);
  EXPECT_EQ(std::count(values.begin(), values.end(), 7.0f),
            static_cast<std::ptrdiff_t>(values.size()));
}

TEST_P(dequantize_type, tensor_bytes_are_whole_blocks_or_none) {
  const block_layout& layout = layout_of(GetParam());
  const auto block = static_cast<std::int64_t>(layout.num_elements);
  const auto bytes = [](std::vector<std::int64_t> shape) {
    return tensor_bytes(GetParam(), shape);
  };
  EXPECT_EQ(bytes({block}), layout.num_bytes);
  EXPECT_EQ(bytes({2 * block, 3, 5}), 30 * layout.num_bytes);
  if (block > 1) {
    EXPECT_EQ(bytes({block - 1}), std::nullopt);
    EXPECT_EQ(bytes({block + 1, block}), std::nullopt);
  }
  EXPECT_EQ(bytes({0}), std::nullopt);
  EXPECT_EQ(bytes({-block, -1}), std::nullopt);
  EXPECT_EQ(bytes({block, std::int64_t{1} << 62}),
            block > 1 ? std::nullopt : bytes({1, block << 62}));
  EXPECT_EQ(bytes({std::int64_t{1} << 32, std::int64_t{1} << 32}), std::nullopt);
  EXPECT_EQ(bytes({block << 20, std::int64_t{1} << 62}), std::nullopt);
}

INSTANTIATE_TEST_SUITE_P(dequantize, dequantize_type, testing::ValuesIn(all_types),
                         [](const testing::TestParamInfo<ggml_type>& parameter) {
                           return std::string(layout_of(parameter.param).name);
                         });

TEST(dequantize, unknown_type_numbers) {
  for (const std::uint32_t number : {4u, 5u, 9u, 15u, 29u, 31u, 1000u, ~0u}) {
    EXPECT_EQ(find_ggml_type(number), std::nullopt);
  }
}

TEST(dequantize, decodes_a_tensor_of_a_real_file) {
  const auto path = test::smollm_file();
  if (path.empty()) GTEST_SKIP() << "no SmolLM2 file: set ZEROTUNE_MODEL_FILE";
  const gguf_file file(path);
  for (const char* name : {"token_embd.weight", "blk.0.attn_q.weight", "blk.0.attn_norm.weight"}) {
    const gguf_tensor& tensor = file.tensor(name);
    const ggml_type type = *find_ggml_type(tensor.type_number);
    const std::size_t row = static_cast<std::size_t>(tensor.shape[0]);
    std::vector<float> values(row);
    const block_layout& layout = layout_of(type);
    dequantize(type, tensor.bytes.first(row / layout.num_elements * layout.num_bytes), values);
    const auto is_small = [](float value) { return std::abs(value) < 10; };
    EXPECT_TRUE(std::all_of(values.begin(), values.end(), is_small)) << name;
    EXPECT_TRUE(std::any_of(values.begin(), values.end(), [](float v) { return v != 0; })) << name;
  }
}

}  // namespace
}  // namespace llama
