// SPDX-License-Identifier: Apache-2.0
// usage: zerotune_dispatch_test [the set that is to be taken]
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "dispatch_test_dispatch.hpp"

int main(int argc, char** argv) {
  const bool named = argc > 1;
  if (named)
    for (const zerotune::instruction_set set : zerotune::instruction_sets)
      if (std::strcmp(argv[1], zerotune::name_of(set)) == 0 && !zerotune::is_supported(set)) {
        std::printf("skipped: this machine has no %s\n", argv[1]);
        return 77;
      }
  zerotune::instruction_set allowed;
  try {
    allowed = zerotune::allowed_instruction_set();
  } catch (const zerotune::invalid_argument& error) {
    std::puts(error.what());
    return 2;
  }
  // Two rows of weights that sum to 1: a'_0 = gamma a_0 / D and a'_j = a_j / D, D = 1 + (gamma-1)
  // a_0.
  constexpr std::int64_t rows = 2, columns = 67;
  constexpr double gamma = 3, first = 0.5;
  std::vector<float> weights(rows * columns, static_cast<float>((1 - first) / (columns - 1)));
  weights[0] = weights[columns] = static_cast<float>(first);
  dispatch_test_arguments arguments{weights.data(), rows, columns, static_cast<float>(gamma), ""};
  dispatch_test_for(allowed)(arguments);

  int failures = 0;
  const double d = 1 + (gamma - 1) * first;
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    const double expected = i % columns == 0 ? gamma * first / d : (1 - first) / (columns - 1) / d;
    const double got = static_cast<double>(weights[static_cast<std::size_t>(i)]);
    if (std::abs(got - expected) > 1e-6 * expected) ++failures;
  }
  const char* const wanted = named ? argv[1] : zerotune::name_of(zerotune::best_instruction_set());
  std::printf("allowed %s, compiled for %s, wanted %s, %d wrong weights\n",
              zerotune::name_of(allowed), arguments.compiled_for, wanted, failures);
  if (std::strcmp(arguments.compiled_for, wanted) != 0) ++failures;
  if (dispatch_test_set(allowed) != allowed) ++failures;
  return failures == 0 ? 0 : 1;
}
