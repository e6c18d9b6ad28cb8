// SPDX-License-Identifier: Apache-2.0
// The instruction set that the host was compiled for. A program that contains it ends with a
// message before main() on a CPU that has not got it, rather than with an illegal instruction.
#pragma once

#include <string_view>

namespace llama {

/// "baseline", "x86-64-v2", "x86-64-v3" or "x86-64-v4", as given to the build.
std::string_view instruction_set();

}  // namespace llama
