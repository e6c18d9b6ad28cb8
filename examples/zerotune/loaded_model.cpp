// SPDX-License-Identifier: Apache-2.0
#include "loaded_model.hpp"

#include <charconv>
#include <cstdio>
#include <map>
#include <optional>

#include "failure.hpp"
#include "files.hpp"
#include "llama/cpu.hpp"
#include "llama/ggml_type.hpp"
#include "zerotune/policy/limits.hpp"
#include "zerotune/tuning/json.hpp"

namespace zerotune_cli {

loaded_model::loaded_model(const std::string& path, llama::gemm_kind kind)
    : file(path),
      tokens(llama::tokenizer::from_gguf(file)),
      model(llama::model::from_gguf(file, kind)),
      products(kind) {}

std::string loaded_model::arithmetic() const {
  return std::string(name_of(products)) + " " + zerotune::name_of(llama::instruction_set());
}

zerotune::model_description loaded_model::describe() const {
  const llama::model_config& config = model.config();
  return {config.architecture, config.name,         config.num_layers,
          config.num_heads,    config.num_kv_heads, tokens.vocabulary_hash(),
          std::string(),       main_type(file)};
}

std::string main_type(const llama::gguf_file& file) {
  std::map<std::uint32_t, std::size_t> bytes;
  for (const llama::gguf_tensor& tensor : file.tensors())
    bytes[tensor.type_number] += tensor.bytes.size();
  std::string name;
  std::size_t most = 0;
  for (const auto& [number, size] : bytes) {
    const std::optional<llama::ggml_type> type = llama::find_ggml_type(number);
    if (!type || size <= most) continue;
    most = size;
    name = llama::layout_of(*type).name;
  }
  return name;
}

requested_gamma read_gamma(const loaded_model& model, const std::string& gamma,
                           const std::string& profile) {
  const llama::model_config& config = model.model.config();
  requested_gamma result;
  if (!gamma.empty()) {
    float value = 0;
    const auto [end, error] = std::from_chars(gamma.data(), gamma.data() + gamma.size(), value);
    if (error != std::errc{} || end != gamma.data() + gamma.size() ||
        !zerotune::impl::is_valid_gamma(value))
      throw usage_error("--gamma: expected a finite number >= 0, got '" + gamma + "'");
    result.table = zerotune::gamma_table(config.num_layers, config.num_heads, value);
  }
  if (!profile.empty()) {
    const zerotune::json_limits limits;
    zerotune::tuning_profile read =
        zerotune::read_profile(read_file(profile, limits.bytes), profile, limits);
    zerotune::model_description description = model.describe();
    if (!read.model.file_hash.empty()) description.file_hash = model.file.file_hash();
    try {
      for (const std::string& warning : zerotune::check_profile(read, description))
        std::fprintf(stderr, "warning: %s: %s\n", profile.c_str(), warning.c_str());
    } catch (const zerotune::invalid_argument& error) {
      throw usage_error(profile + ": " + error.what());
    }
    result.table = std::move(read.gamma);
    result.template_text = std::move(read.template_text);
  }
  return result;
}

}  // namespace zerotune_cli
