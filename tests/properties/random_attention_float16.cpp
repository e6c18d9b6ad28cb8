// SPDX-License-Identifier: Apache-2.0
// Random attention of float16: properties/random_attention.hpp.
#include "properties/random_attention.hpp"

#if !defined(ZEROTUNE_TEST_FEW_TYPES)
TEST(simd_random_attention, of_float16) { test::run_random_cases<zerotune::float16>(2); }
#endif
