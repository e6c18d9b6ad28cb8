// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include <algorithm>
#include <thread>

#include "failure.hpp"

namespace zerotune_cli {

int model_options::default_threads() {
  return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 64u));
}

void model_options::add(CLI::App& command, bool runs) {
  command.add_option("--model", model, "GGUF file of the model")->required()->type_name("FILE");
  if (!runs) return;
  command
      .add_option("--threads", threads, "threads; the results are the same for any number of them")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command
      .add_option("--compute", compute,
                  "fp32, or bf16: matrix products with weights and inputs rounded to bfloat16, "
                  "sums in float")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  command.add_flag("--json", json, "print one JSON object instead of text");
}

llama::gemm_kind model_options::products() const {
  if (compute == "fp32") return llama::default_gemm();
  const auto kind = llama::gemm_kind::onednn_bf16;
  if (!llama::is_available(kind))
    throw usage_error("--compute bf16: " + llama::why_unavailable(kind));
  return kind;
}

void data_options::add(CLI::App& command) {
  command
      .add_option("--data", data,
                  "JSON lines {\"id\", \"text\", \"choices\", \"label\"}, optionally \"context\"")
      ->required()
      ->type_name("FILE");
  command
      .add_option("--template", prompt_template,
                  "prompt with {text}, {context}, {choices}; {{ and }} are braces; @FILE reads it "
                  "from a file, less one final newline")
      ->required()
      ->type_name("TEXT|@FILE");
}

void gamma_options::add(CLI::App& command) {
  CLI::Option* const one =
      command
          .add_option("--gamma", gamma, "multiply the attention to the initial token, all heads")
          ->type_name("NUMBER");
  command.add_option("--profile", profile, "tuning profile, as tune writes it")
      ->type_name("FILE")
      ->excludes(one);
}

}  // namespace zerotune_cli
