// SPDX-License-Identifier: Apache-2.0
#include "scheduler/collectives.hpp"

namespace zerotune_test {

void combine_shuffle_xor(void** frames) {
  auto* const f = reinterpret_cast<shuffle_frame**>(frames);
  for (int i = 0; i < 32; ++i) f[i]->out = f[(i ^ f[i]->operand) & 31]->in;
}
void combine_shuffle(void** frames) {
  auto* const f = reinterpret_cast<shuffle_frame**>(frames);
  for (int i = 0; i < 32; ++i) f[i]->out = f[f[i]->operand & 31]->in;
}

namespace {
template <bool Transposed>
void gather_matrices(void** frames) {
  auto* const f = reinterpret_cast<matrix_frame**>(frames);
  for (int i = 0; i < 32; ++i)
    for (int m = 0; m < 4; ++m) {
      std::uint32_t pair = 0;
      for (int half = 0; half < 2; ++half) {
        const int along = i % 4 * 2 + half, across = i / 4;
        const int row = Transposed ? along : across, column = Transposed ? across : along;
        pair |= std::uint32_t{f[m * 8 + row]->row[column]} << (16 * half);
      }
      f[i]->out[m] = pair;
    }
}
}  // namespace
void combine_matrices(void** frames) { gather_matrices<false>(frames); }
void combine_matrices_transposed(void** frames) { gather_matrices<true>(frames); }

template <class T>
void combine_mma(void** frames) {
  auto* const f = reinterpret_cast<mma_frame**>(frames);
  const auto value = [](std::uint32_t word, int half) {
    return static_cast<float>(T::from_bits(static_cast<std::uint16_t>(word >> (16 * half))));
  };
  float a[16][16], b[16][8];
  for (int i = 0; i < 32; ++i)
    for (int half = 0; half < 2; ++half) {
      for (int r = 0; r < 4; ++r)
        a[i / 4 + r % 2 * 8][i % 4 * 2 + half + r / 2 * 8] = value(f[i]->a[r], half);
      for (int r = 0; r < 2; ++r) b[i % 4 * 2 + half + r * 8][i / 4] = value(f[i]->b[r], half);
    }
  float d[16][8];
  for (int i = 0; i < 32; ++i)
    for (int r = 0; r < 4; ++r) d[i / 4 + r / 2 * 8][i % 4 * 2 + r % 2] = f[i]->d[r];
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
  for (int i = 0; i < 32; ++i)
    for (int r = 0; r < 4; ++r) f[i]->d[r] = d[i / 4 + r / 2 * 8][i % 4 * 2 + r % 2];
}
template void combine_mma<zerotune::float16>(void** frames);
template void combine_mma<zerotune::bfloat16>(void** frames);

}  // namespace zerotune_test
