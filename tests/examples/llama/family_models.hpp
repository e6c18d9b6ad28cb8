// SPDX-License-Identifier: Apache-2.0
// Small GGUF models with the attention of three model families and weights made from a hash: the
// same bytes as tests/references/make_family_models.py writes. The recipe is in the README there.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

namespace llama_test {

enum class model_family {
  llama_3_1,                 ///< llama, 8/2 heads of 128, scaled rope, 11 element types
  qwen_2_5,                  ///< qwen2, 14/2 heads of 64, biases, tied embeddings
  deepseek_r1_distill_qwen,  ///< qwen2, 12/2 heads of 128, biases, k-quants
};

inline constexpr model_family all_families[] = {model_family::llama_3_1, model_family::qwen_2_5,
                                                model_family::deepseek_r1_distill_qwen};

/// The key of a family in family_logprobs.json; the model's general.name.
std::string_view name_of(model_family family);

/// The bytes of the model's GGUF v3 file, some 5 to 12 MB; the same on every machine.
std::vector<std::byte> make_family_model(model_family family);

}  // namespace llama_test
