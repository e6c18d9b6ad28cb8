// SPDX-License-Identifier: Apache-2.0
// A consumer of the optional parts: each is a header and a target of its own.
#include <zerotune/zerotune.hpp>

#include <cmath>
#if defined(CONSUMER_SIMD)
#include <zerotune/kernel/simd/simd.hpp>
#endif
#if defined(CONSUMER_EIGEN)
#include <zerotune/interop/eigen.hpp>

#include <Eigen/Core>
#endif
#if defined(CONSUMER_CUDA)  // a host compiler without a toolkit: everything but the launches
#include <zerotune/apply/cuda/cuda.cuh>
#endif
#if defined(CONSUMER_TUNING)
#include <zerotune/tuning/json.hpp>
#endif

int main() {
  int failures = 0;
#if defined(CONSUMER_SIMD)
  float weights[4] = {0.5f, 0.25f, 0.125f, 0.125f};
  zerotune::rescale_weights(zerotune::backend::simd<>{},
                            zerotune::tensor_view<float, 2>(weights, {1, 4}),
                            zerotune::initial_token{2.0f});
  failures += std::fabs(weights[0] - 2.0f / 3.0f) < 1e-6f ? 0 : 1;
#endif
#if defined(CONSUMER_EIGEN)
  const Eigen::MatrixXf zero = Eigen::MatrixXf::Zero(2, 2);
  failures += zero.size() == 4 ? 0 : 1;
#endif
#if defined(CONSUMER_CUDA)
  // Partial results of two splits: an output of 128 and an LSE for each of 32 rows.
  failures +=
      zerotune::attention_workspace_bytes({1, 32, 1, 1024}, 8, 128) == 2 * 32 * 129 * 4 ? 0 : 1;
#endif
#if defined(CONSUMER_TUNING)
  const zerotune::gamma_table table(2, 3, 1.5f);
  failures += table.row(1)(2) == 1.5f ? 0 : 1;
#endif
  return failures;
}
