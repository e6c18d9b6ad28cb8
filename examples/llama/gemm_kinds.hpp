// SPDX-License-Identifier: Apache-2.0
// What each kind of product offers to gemm.cpp.
#pragma once

#include "llama/gemm.hpp"

namespace llama {

std::unique_ptr<const packed_matrix> pack_eigen(const matrix& weights);

/// Absent without oneDNN. @param parts as pack()'s
std::unique_ptr<const packed_matrix> pack_onednn(gemm_kind kind, const matrix& weights,
                                                 std::int64_t parts);
bool onednn_has_bf16();

}  // namespace llama
