// SPDX-License-Identifier: Apache-2.0
// Random attention of float: properties/random_attention.hpp.
#include "properties/random_attention.hpp"

TEST(simd_random_attention, of_float) { test::run_random_cases<float>(0); }
