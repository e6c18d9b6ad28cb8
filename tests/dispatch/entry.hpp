// SPDX-License-Identifier: Apache-2.0
// What crosses from the program to its kernels: plain data.
#pragma once

#include <cstdint>

struct dispatch_test_arguments {
  float* weights;  // [rows, columns]
  std::int64_t rows, columns;
  float gamma;
  const char* compiled_for;  // written
};
using dispatch_test_function = void(dispatch_test_arguments&);
