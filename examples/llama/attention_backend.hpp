// SPDX-License-Identifier: Apache-2.0
// Which back end of zerotune runs the model's attention: SIMD where the build has it.
#pragma once

#if defined(ZEROTUNE_LLAMA_WITH_SIMD)
#include "zerotune/kernel/simd/simd.hpp"
#endif
#include "zerotune/kernel/kernel.hpp"

namespace llama {

#if defined(ZEROTUNE_LLAMA_WITH_SIMD)
using attention_backend = zerotune::backend::simd<>;
#else
using attention_backend = zerotune::backend::scalar;
#endif

}  // namespace llama
