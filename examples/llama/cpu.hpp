// SPDX-License-Identifier: Apache-2.0
// The instruction set that the host works with: chosen once, when it is first asked for.
#pragma once

#include "zerotune/core/instruction_set.hpp"

namespace llama {

/// The best that this machine has, or the lower one that the environment variable
/// ZEROTUNE_INSTRUCTION_SET names. Kernels and oneDNN keep to it.
/// @throws zerotune::invalid_argument if it names none, or one that this machine does not support
zerotune::instruction_set instruction_set();

}  // namespace llama
