// SPDX-License-Identifier: Apache-2.0
#include "llama/cpu.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#if !defined(ZEROTUNE_EXAMPLES_ARCH)
#define ZEROTUNE_EXAMPLES_ARCH "baseline"
#endif

namespace llama {
namespace {

bool cpu_has_level(char level) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  bool has = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
  if (level >= '3')
    has = has && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
          __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  if (level >= '4')
    has = has && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
          __builtin_cpu_supports("avx512vl");
  return has;
#else
  return level == '1';
#endif
}

// Before every other constructor of the program, which may hold instructions of the set.
[[gnu::constructor(101)]] void check_cpu() {
  constexpr const char* arch = ZEROTUNE_EXAMPLES_ARCH;
  if (std::strncmp(arch, "x86-64-v", 8) != 0 || cpu_has_level(arch[8])) return;
  std::fprintf(stderr,
               "This program was compiled for %s, which this CPU does not have. Configure the "
               "build with -DZEROTUNE_EXAMPLES_ARCH=baseline, or on this machine.\n",
               arch);
  std::_Exit(1);
}

}  // namespace

std::string_view instruction_set() { return ZEROTUNE_EXAMPLES_ARCH; }

}  // namespace llama
