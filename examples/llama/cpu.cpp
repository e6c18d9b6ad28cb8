// SPDX-License-Identifier: Apache-2.0
#include "llama/cpu.hpp"

#include "llama/kernels.hpp"
#include "llama_attention_dispatch.hpp"
#include "llama_eigen_dispatch.hpp"
#include "llama_elementwise_dispatch.hpp"

namespace llama {

zerotune::instruction_set instruction_set() {
  static const zerotune::instruction_set chosen = zerotune::allowed_instruction_set();
  return chosen;
}

const attention_kernels& current_attention_kernels() {
  static const attention_kernels kernels = llama_attention_for(instruction_set())();
  return kernels;
}

const elementwise_kernels& current_elementwise_kernels() {
  static const elementwise_kernels kernels = llama_elementwise_for(instruction_set())();
  return kernels;
}

const eigen_kernels& current_eigen_kernels() {
  static const eigen_kernels kernels = llama_eigen_for(instruction_set())();
  return kernels;
}

}  // namespace llama
