// SPDX-License-Identifier: Apache-2.0
#include "llama/model.hpp"

#include <utility>

#include "llama/cpu.hpp"
#include "llama/gguf.hpp"
#include "llama/llama2c.hpp"

namespace llama {

model::model(model_config config, model_weights weights)
    : config_(std::move(config)), weights_(std::move(weights)) {}

model model::from_gguf(const gguf_file& file, gemm_kind kind) {
  model_config config = read_config(file);
  model_weights weights = load_weights(config, file, kind);
  return model(std::move(config), std::move(weights));
}

model model::from_llama2c(const llama2c_checkpoint& checkpoint, gemm_kind kind) {
  model_config config = read_config(checkpoint);
  model_weights weights = load_weights(config, checkpoint, kind);
  return model(std::move(config), std::move(weights));
}

}  // namespace llama
