// SPDX-License-Identifier: Apache-2.0
// Sums in double. ZEROTUNE_DISPATCHED is the one function that this translation unit is entered
// through.
#include "sum_kernels.hpp"

capi::sum_kernels ZEROTUNE_DISPATCHED() { return capi::sum_operations<double>::all(); }
