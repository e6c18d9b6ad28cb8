// SPDX-License-Identifier: Apache-2.0
// Random attention of double: properties/random_attention.hpp.
#include "properties/random_attention.hpp"

#if !defined(ZEROTUNE_TEST_FEW_TYPES)
TEST(simd_random_attention, of_double) { test::run_random_cases<double>(1); }
#endif
