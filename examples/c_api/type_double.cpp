// SPDX-License-Identifier: Apache-2.0
// Keys, values and weights of float64. ZEROTUNE_DISPATCHED is the one function that this
// translation unit is entered through.
#include "type_kernels.hpp"

capi::type_kernels ZEROTUNE_DISPATCHED() { return capi::type_operations<double>::all(); }
