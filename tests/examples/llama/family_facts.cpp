// SPDX-License-Identifier: Apache-2.0
#include "family_facts.hpp"

#include <stdexcept>

namespace llama_test {

block_format format_of(element type) {
  constexpr half_field scale{0, 0, false}, absent{0, 0, false};
  switch (type) {
    case element::f32:
      return {1, 4, -4, 0, {absent, absent}};
    case element::f16:
      return {1, 2, -4, 0, {absent, absent}};
    case element::bf16:
      return {1, 2, -4, 0, {absent, absent}};
    case element::q4_0:
      return {32, 18, -7, 1, {scale, absent}};
    case element::q4_1:
      return {32, 20, -7, 2, {scale, half_field{2, 3, true}}};
    case element::q5_0:
      return {32, 22, -8, 1, {scale, absent}};
    case element::q5_1:
      return {32, 24, -8, 2, {scale, half_field{2, 4, true}}};
    case element::q8_0:
      return {32, 34, -11, 1, {scale, absent}};
    case element::q4_k:
      return {256, 144, -13, 2, {scale, half_field{2, 3, false}}};
    case element::q5_k:
      return {256, 176, -14, 2, {scale, half_field{2, 4, false}}};
    case element::q6_k:
      return {256, 210, -15, 1, {half_field{208, subnormal, false}, absent}};
    case element::none:
      break;
  }
  throw std::logic_error("family_models: no such element type");
}

family_facts facts_of(model_family family) {
  using enum element;
  switch (family) {
    case model_family::llama_3_1:
      return {
          .name = "llama_3_1",
          .seed = 1,
          .architecture = "llama",
          .embedding = 512,
          .heads = 8,
          .kv_heads = 2,
          .head_dim = 128,
          .feed_forward = 768,
          .context = 131072,
          .theta = 500000.0f,
          .epsilon = 1e-5f,
          .pre_tokenizer = "llama-bpe",
          .special = {"<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|eot_id|>"},
          .add_bos = true,
          .bos = 508,
          .eos = 509,
          .embedding_type = q8_0,
          .output_type = q6_k,
          .embedding_shift = 4,
          .attention_shift = 0,
          .layers = {{q4_k, f32, f16, q6_k, q5_k, q4_0, q5_1},
                     {q8_0, q4_1, bf16, q5_0, q4_k, q6_k, q8_0},
                     {f16, q5_k, q6_k, q4_0, bf16, q5_1, q4_1}}};
    case model_family::qwen_2_5:
      return {.name = "qwen_2_5",
              .seed = 2,
              .architecture = "qwen2",
              .embedding = 896,
              .heads = 14,
              .kv_heads = 2,
              .head_dim = 64,
              .feed_forward = 512,
              .context = 32768,
              .theta = 1000000.0f,
              .epsilon = 1e-6f,
              .pre_tokenizer = "qwen2",
              .special = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_pad|>"},
              .add_bos = false,
              .bos = 508,
              .eos = 510,
              .embedding_type = q8_0,
              .output_type = none,
              .embedding_shift = 1,
              .attention_shift = 0,
              .layers = {{q5_0, q8_0, q4_1, f16, q4_0, q5_1, q4_k},
                         {bf16, f32, q5_0, q8_0, q4_1, q4_0, q6_k}}};
    case model_family::deepseek_r1_distill_qwen:
      // The bars are U+FF5C, the strokes between the words U+2581, in UTF-8.
      return {.name = "deepseek_r1_distill_qwen",
              .seed = 3,
              .architecture = "qwen2",
              .embedding = 1536,
              .heads = 12,
              .kv_heads = 2,
              .head_dim = 128,
              .feed_forward = 512,
              .context = 131072,
              .theta = 10000.0f,
              .epsilon = 1e-6f,
              .pre_tokenizer = "deepseek-r1-qwen",
              .special = {"<\357\275\234begin\342\226\201of\342\226\201sentence\357\275\234>",
                          "<\357\275\234end\342\226\201of\342\226\201sentence\357\275\234>",
                          "<\357\275\234User\357\275\234>", "<\357\275\234Assistant\357\275\234>"},
              .add_bos = true,
              .bos = 508,
              .eos = 509,
              .embedding_type = q4_k,
              .output_type = q6_k,
              .embedding_shift = 4,
              .attention_shift = -1,
              .layers = {{q4_k, q4_k, q6_k, q4_k, q4_k, q4_k, q6_k},
                         {q5_k, q8_0, f16, q5_k, q6_k, q5_k, q4_0}}};
  }
  throw std::logic_error("family_models: no such family");
}

}  // namespace llama_test
