// SPDX-License-Identifier: Apache-2.0
// What a warp's instructions do, lane by lane, as the PTX ISA describes their operands. Used by the
// host context and by translated PTX. Compiled with the scheduler: a warp's exchange reads and
// writes other lanes' operands, which the thread sanitizer would take for races.
#pragma once

#include <cstdint>

#include "zerotune/core/float16.hpp"

namespace zerotune_test {

struct shuffle_frame {
  std::uint64_t in, out;
  int operand;  // mask of an exchange, or the lane that is read
};
void combine_shuffle_xor(void** frames);
void combine_shuffle(void** frames);

/// ldmatrix.x4: lane i brings row i % 8 (eight 16-bit elements) of matrix i / 8, read by itself, so
/// that a sanitizer sees the lane that asked. Lane i gets elements 2 (i % 4) and + 1 of row i / 4
/// of each matrix; transposed: of column i / 4.
struct matrix_frame {
  std::uint16_t row[8];
  std::uint32_t out[4];
};
void combine_matrices(void** frames);
void combine_matrices_transposed(void** frames);

/// mma.m16n8k16 with 16-bit operands and float accumulators.
struct mma_frame {
  float* d;
  const std::uint32_t* a;
  const std::uint32_t* b;
};
template <class T>
void combine_mma(void** frames);
extern template void combine_mma<zerotune::float16>(void** frames);
extern template void combine_mma<zerotune::bfloat16>(void** frames);

}  // namespace zerotune_test
