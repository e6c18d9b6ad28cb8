// SPDX-License-Identifier: Apache-2.0
// Compiled once per instruction set.
#include "entry.hpp"
#include "zerotune/kernel/scalar/row_ops.hpp"
#include "zerotune/kernel/weights_row.hpp"
#include "zerotune/policy/initial_token.hpp"
#if defined(DISPATCH_TEST_SIMD)
#include "zerotune/kernel/simd/simd.hpp"
using back_end = zerotune::backend::simd<>;
#else
using back_end = zerotune::backend::scalar;
#endif

void ZEROTUNE_DISPATCHED(dispatch_test_arguments& a) {
#if defined(__AMX_BF16__) || defined(__AMXBF16__)  // the latter: Clang before 15
  a.compiled_for = "amx_bf16";
#elif defined(__AVX512BF16__)
  a.compiled_for = "avx512_bf16";
#elif defined(__AVX512F__)
  a.compiled_for = "avx512";
#elif defined(__AVX2__)
  a.compiled_for = "avx2";
#else
  a.compiled_for = "baseline";
#endif
  const zerotune::geometry g{{1, 1, a.rows, a.columns}, {}, {}};
  const zerotune::initial_token sink{a.gamma};
  for (std::int64_t i = 0; i < a.rows; ++i)
    zerotune::impl::rescale_row<back_end>(a.weights + i * a.columns, 1, g, sink, g.at(0, 0, i));
}
