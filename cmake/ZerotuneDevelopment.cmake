# SPDX-License-Identifier: Apache-2.0
# What the project's own tests, examples and benchmarks are compiled with. Never part of the
# installed targets.

add_library(zerotune_development INTERFACE)
target_compile_features(zerotune_development INTERFACE cxx_std_20)
target_compile_options(
  zerotune_development
  INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Wshadow
            $<$<BOOL:${ZEROTUNE_WARNINGS_AS_ERRORS}>:-Werror>
            # GCC sees uninitialised vectors in its own AVX-512 intrinsics (its bug 105593).
            $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized -Wno-uninitialized>)

# Instruction sets that the tests compile for; their options stand in ZerotuneDispatch.cmake.
zerotune_find_instruction_sets()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(ZEROTUNE_ARCHITECTURES sse2 avx2 avx512)
else()
  set(ZEROTUNE_ARCHITECTURES "")
endif()
set(ZEROTUNE_FLAGS_sse2 -msse2)
