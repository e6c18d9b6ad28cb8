// SPDX-License-Identifier: Apache-2.0
// Which instruction set is used: the best that the CPU has, or a lower one by the environment.
#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels.hpp"
#include "zerotune/core/error.hpp"

#if defined(ZEROTUNE_C_DISPATCH)
#include <cpuid.h>
#endif

zt_c::kernels zerotune_c_baseline();
#if defined(ZEROTUNE_C_DISPATCH)
zt_c::kernels zerotune_c_avx2();
zt_c::kernels zerotune_c_avx512();
#endif

namespace zt_c {
namespace {

bool always() { return true; }

#if defined(ZEROTUNE_C_DISPATCH)
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
// The builtins ask the operating system as well whether it saves the registers.
bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

struct instruction_set {
  const char* name;
  bool (*available)();
  kernels (*entry)();
};
constexpr instruction_set instruction_sets[] = {  // the best first
#if defined(ZEROTUNE_C_DISPATCH)
    {"avx512", has_avx512, zerotune_c_avx512},
    {"avx2", has_avx2, zerotune_c_avx2},
#endif
    {"baseline", always, zerotune_c_baseline}};

struct choice {
  const char* name = nullptr;
  kernels functions{};
  std::string error;
};

choice choose() {
  constexpr const char* variable = "ZEROTUNE_INSTRUCTION_SET";
  const char* const wanted = std::getenv(variable);
  const bool forced = wanted && *wanted;
  choice result;
  std::string names;
  for (const instruction_set& set : instruction_sets) {
    if (!set.available()) continue;
    names += names.empty() ? set.name : std::string(", ") + set.name;
    if (result.name || (forced && std::strcmp(wanted, set.name) != 0)) continue;
    result.name = set.name;
    result.functions = set.entry();
  }
  if (!result.name)
    result.error = std::string("zerotune: environment ") + variable + ": expected one of " + names +
                   " on this machine, got " + std::string(wanted, strnlen(wanted, 32));
  return result;
}

const choice& chosen() {
  static const choice once = choose();
  if (!once.error.empty()) throw zerotune::invalid_argument(once.error);
  return once;
}

}  // namespace

const kernels& current_kernels() { return chosen().functions; }
const char* current_name() { return chosen().name; }

}  // namespace zt_c
