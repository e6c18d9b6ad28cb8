// SPDX-License-Identifier: Apache-2.0
// Random attention of bfloat16: properties/random_attention.hpp.
#include "properties/random_attention.hpp"

TEST(simd_random_attention, of_bfloat16) { test::run_random_cases<zerotune::bfloat16>(3); }
