// SPDX-License-Identifier: Apache-2.0
// Minimal stand-ins, written for this test, of kernels that take a variant's hooks or an epilogue
// visitor: what such a kernel asks of the fragments, and no more.
#pragma once

#include "zerotune/interop/cutlass.hpp"
#include "zerotune/interop/flashinfer.hpp"
#include "zerotune/policy/masks.hpp"

namespace zerotune_test {

/// A kernel's parameters, as variants see them.
struct variant_parameters {
  long qo_len, kv_len;
  ZEROTUNE_HOST_DEVICE int get_qo_len(int) const { return static_cast<int>(qo_len); }
  ZEROTUNE_HOST_DEVICE int get_kv_len(int) const { return static_cast<int>(kv_len); }
};

/// One row of attention by a kernel with variant hooks; logits are in units of `unit` (log2(e) for
/// kernels that use exp2).
template <class Variant, class Parameters>
ZEROTUNE_HOST_DEVICE void variant_attention(const Variant& variant, const Parameters& parameters,
                                            const float* q, const float* k, const float* v, int dim,
                                            float scale, float unit, unsigned qo_idx,
                                            unsigned head_idx, float* out) {
  float maximum = -3e38f, sum = 0;
  for (int pass = 0; pass < 2; ++pass)
    for (int j = 0; j < parameters.get_kv_len(0); ++j) {
      const auto kv_idx = static_cast<unsigned>(j);
      if (!variant.LogitsMask(parameters, 0u, qo_idx, kv_idx, head_idx, 0u)) continue;
      float logit = 0;
      for (int d = 0; d < dim; ++d) logit += q[d] * k[j * dim + d];
      logit = variant.LogitsTransform(parameters, logit * scale, 0u, qo_idx, kv_idx, head_idx, 0u);
      logit /= unit;
      if (pass == 0) {
        maximum = logit > maximum ? logit : maximum;
      } else {
        const float weight = ::expf(logit - maximum);
        sum += weight;
        for (int d = 0; d < dim; ++d) out[d] += weight * v[j * dim + d];
      }
    }
  for (int d = 0; d < dim; ++d) out[d] /= sum;
}

/// A tile of accumulators that goes through an epilogue: four elements of a row at a time.
template <class Visitor>
ZEROTUNE_HOST_DEVICE void epilogue_tile(const Visitor& visitor, float* tile, int first_column,
                                        int rows) {
  for (int r = 0; r < rows; ++r) {
    float fragment[4];
    for (int i = 0; i < 4; ++i) fragment[i] = tile[r * 4 + i];
    visitor.visit(fragment, [&](int i, zerotune::index_t* row, zerotune::index_t* column) {
      *row = r;
      *column = first_column + i;
    });
    for (int i = 0; i < 4; ++i) tile[r * 4 + i] = fragment[i];
  }
}

}  // namespace zerotune_test
