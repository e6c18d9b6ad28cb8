// SPDX-License-Identifier: Apache-2.0
// The model against log-probabilities that PyTorch computed in double, with and without gammas.
#include "llama/model.hpp"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "family_models.hpp"
#include "llama/gguf.hpp"
#include "llama/llama2c.hpp"
#include "llama/sampler.hpp"
#include "reference_cases.hpp"

namespace {

using llama::gemm_kind;
using llama::test::expect_reference;
using llama::test::read_reference;

// Single precision moves these values by 5e-5 at most (written in the reference files).
constexpr double float_tolerance = 5e-4;
// Eight bits of mantissa in weights and activations; 0.2 was seen.
constexpr double bf16_tolerance = 0.5;

class SmolLM2 : public testing::TestWithParam<gemm_kind> {
 protected:
  void SetUp() override {
    if (llama::test::smollm_file().empty())
      GTEST_SKIP() << "no SmolLM2-135M-Instruct.Q4_1.gguf: set ZEROTUNE_MODEL_FILE";
    if (!llama::is_available(GetParam()))
      GTEST_SKIP() << "this build or CPU has not got " << name_of(GetParam());
  }
};

TEST_P(SmolLM2, GivesTheReferenceLogProbabilities) {
  const llama::gguf_file file(llama::test::smollm_file());
  const llama::model m = llama::model::from_gguf(file, GetParam());
  EXPECT_EQ(m.config().head_dim, 64);
  EXPECT_EQ(m.config().rope_base, 100000.0f);
  expect_reference(m, read_reference("smollm2_logprobs.json"),
                   GetParam() == gemm_kind::onednn_bf16 ? bf16_tolerance : float_tolerance);
}

TEST_P(SmolLM2, ContinuesGreedilyAsTheReference) {
  const llama::gguf_file file(llama::test::smollm_file());
  const llama::model m = llama::model::from_gguf(file, GetParam());
  const auto greedy = read_reference("smollm2_logprobs.json")["greedy"];
  const std::vector<int> all = greedy["prompt_and_continuation"].integers();
  const int count = greedy["generated"].integer();
  llama::kv_cache cache(m.config());
  llama::sampler choose({});
  llama::workspace space;
  const auto generated = generate(
      m, llama::untouched{}, std::span(all).first(all.size() - static_cast<std::size_t>(count)),
      cache, choose, count, space, [](int) { return true; });
  EXPECT_EQ(generated, std::vector<int>(all.end() - count, all.end()));
}

INSTANTIATE_TEST_SUITE_P(Products, SmolLM2,
                         testing::Values(gemm_kind::eigen, gemm_kind::onednn,
                                         gemm_kind::onednn_bf16),
                         [](const auto& tested) {
                           std::string name(name_of(tested.param));
                           std::erase(name, '-');
                           return name;
                         });

class Family : public testing::TestWithParam<llama_test::model_family> {};

TEST_P(Family, GivesTheReferenceLogProbabilities) {
  const std::vector<std::byte> bytes = llama_test::make_family_model(GetParam());
  const llama::gguf_file file = llama::gguf_file::from_memory(bytes);
  const llama::model m = llama::model::from_gguf(file);
  const auto all = read_reference("family_logprobs.json");
  expect_reference(m, all["families"][std::string(name_of(GetParam()))], float_tolerance);
}

INSTANTIATE_TEST_SUITE_P(Models, Family, testing::ValuesIn(llama_test::all_families),
                         [](const auto& tested) { return std::string(name_of(tested.param)); });

TEST(Stories260K, TellsItsStory) {
  const auto checkpoint_file = llama::test::stories_file("stories260K.bin");
  if (checkpoint_file.empty()) GTEST_SKIP() << "no models/stories260K: set ZEROTUNE_DATA_DIR";
  const auto checkpoint = llama::read_llama2c_checkpoint(checkpoint_file);
  const llama::model m = llama::model::from_llama2c(checkpoint);
  const llama::tokenizer tokens = llama::read_llama2c_tokenizer(
      llama::test::stories_file("tok512.bin"), checkpoint.vocabulary_size);
  std::vector<int> prompt = tokens.encode("Once upon a time");
  prompt.insert(prompt.begin(), tokens.bos_id());
  llama::kv_cache cache(m.config());
  llama::sampler choose({});
  llama::workspace space;
  const auto story =
      generate(m, llama::untouched{}, prompt, cache, choose, 80, space, [](int) { return true; });
  const std::string expected =
      ", there was a little girl named Lily. She loved to play outside in the park. One day, she "
      "saw a big, red ball. She wanted to play with it, but it was too high";
  EXPECT_EQ(tokens.decode(story).substr(0, expected.size()), expected);
}

}  // namespace
