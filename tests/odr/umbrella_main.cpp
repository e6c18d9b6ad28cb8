// SPDX-License-Identifier: Apache-2.0
// Two (and more) translation units that include the umbrella link and run, also where one of them
// was built with -ffast-math or without exceptions.
#include <cmath>
#include <cstdio>

#include "zerotune/zerotune.hpp"

float umbrella_plain(float gamma);
float umbrella_fast_math(float gamma);
float umbrella_no_exceptions(float gamma);

int main() {
  int failures = 0;
  for (const float gamma : {0.0f, 0.5f, 1.0f, 3.0f}) {
    const float expected = gamma * 0.5f / (gamma * 0.5f + 0.5f);
    for (const auto& function : {umbrella_plain, umbrella_fast_math, umbrella_no_exceptions})
      if (std::fabs(function(gamma) - expected) > 1e-6f) ++failures;
  }
  // The mode without exceptions must not have taken them from this translation unit.
  try {
    float one = 1.0f;
    zerotune::rescale_weights(zerotune::tensor_view<float, 2>(&one, {1, 1}),
                              zerotune::initial_token{-1.0f});
    ++failures;
  } catch (const zerotune::invalid_argument&) {
  }
  std::printf("%d failures\n", failures);
  return failures;
}
