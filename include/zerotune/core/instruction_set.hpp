// SPDX-License-Identifier: Apache-2.0
// Which instruction sets a program may use on the machine that it runs on (layer: core). Compiled
// once, for the baseline; what it chooses among is compiled by zerotune_add_dispatch
// (cmake/ZerotuneDispatch.cmake).
#pragma once

#include <cstdlib>
#include <cstring>

#include "zerotune/core/error.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace zerotune {

/// Families of instructions that kernels are compiled for, each with all that stand before it.
enum class instruction_set {
  baseline,     ///< what the compiler takes without flags; on x86-64 SSE2
  avx2,         ///< AVX2, FMA, F16C
  avx512,       ///< AVX-512 F, BW, DQ, VL
  avx512_bf16,  ///< dot products of bfloat16
  amx_bf16,     ///< tiles of bfloat16
};
inline constexpr instruction_set instruction_sets[] = {
    instruction_set::baseline, instruction_set::avx2, instruction_set::avx512,
    instruction_set::avx512_bf16, instruction_set::amx_bf16};

/// Forces one of the sets by its name, if set and not empty: for allowed_instruction_set().
inline constexpr const char* instruction_set_variable = "ZEROTUNE_INSTRUCTION_SET";

inline namespace ZEROTUNE_ABI {

/// "baseline", "avx2", "avx512", "avx512_bf16" or "amx_bf16".
constexpr const char* name_of(instruction_set set) {
  constexpr const char* names[] = {"baseline", "avx2", "avx512", "avx512_bf16", "amx_bf16"};
  return names[static_cast<int>(set)];
}

namespace impl {

#if defined(__x86_64__)

struct cpuid_registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};
inline cpuid_registers cpuid(unsigned leaf, unsigned subleaf) {
  cpuid_registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

/// The kernel hands out tile registers on request only, to the whole process; it may refuse.
inline bool request_tiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

/// What the CPU has and the operating system saves.
inline bool cpu_has(instruction_set set) {
  __builtin_cpu_init();
  switch (set) {
    case instruction_set::baseline:
      return true;
    case instruction_set::avx2: {
      constexpr unsigned f16c = 1u << 29;
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             (cpuid(1, 0).ecx & f16c) != 0;
    }
    case instruction_set::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case instruction_set::avx512_bf16: {
      constexpr unsigned bf16 = 1u << 5;
      return (cpuid(7, 1).eax & bf16) != 0;
    }
    case instruction_set::amx_bf16: {
      constexpr unsigned tiles_and_bf16 = 1u << 24 | 1u << 22;
      return (cpuid(7, 0).edx & tiles_and_bf16) == tiles_and_bf16 && request_tiles();
    }
  }
  return false;
}

#else

inline bool cpu_has(instruction_set set) { return set == instruction_set::baseline; }

#endif

}  // namespace impl

/// Whether this machine runs code that was compiled for the set. For amx_bf16 the operating system
/// is asked to let the process use tiles, and false is the answer where it refuses. Takes
/// microseconds (CPUID, which a virtual machine traps): ask once. Thread-safe.
inline bool is_supported(instruction_set set) {
  for (const instruction_set lower : instruction_sets) {
    if (lower > set) break;
    if (!impl::cpu_has(lower)) return false;
  }
  return true;
}

/// The highest set that this machine supports.
inline instruction_set best_instruction_set() {
  instruction_set best = instruction_set::baseline;
  for (const instruction_set set : instruction_sets) {
    if (!impl::cpu_has(set)) break;
    best = set;
  }
  return best;
}

/// The highest set that this machine supports, or the lower one that the environment variable
/// ZEROTUNE_INSTRUCTION_SET names.
/// @throws invalid_argument if it names none, or one that this machine does not support
inline instruction_set allowed_instruction_set() {
  const instruction_set best = best_instruction_set();
  const char* const wanted = std::getenv(instruction_set_variable);
  if (!wanted || !*wanted) return best;
  std::string names;
  for (const instruction_set set : instruction_sets) {
    if (set > best) break;
    if (std::strcmp(wanted, name_of(set)) == 0) return set;
    names += std::string(names.empty() ? "" : ", ") + name_of(set);
  }
  constexpr std::size_t longest = 32;
  const std::string text(wanted);
  impl::fail("zerotune", std::string("environment ") + instruction_set_variable,
             "one of " + names + " on this machine", text.substr(0, longest));
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
