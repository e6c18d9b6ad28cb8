// SPDX-License-Identifier: Apache-2.0
// Every macro of the library in one place (layer: core). docs/configuration.md describes each.
#pragma once

// --- language and target ------------------------------------------------------------------------

#if !defined(__cplusplus) || __cplusplus < 202002L
#error "zerotune needs C++20 (-std=c++20)"
#endif

/// Marks a function that a CUDA kernel may call as well; empty for a host compiler.
#if defined(__CUDACC__)
#define ZEROTUNE_HOST_DEVICE __host__ __device__
#else
#define ZEROTUNE_HOST_DEVICE
#endif

/// Inlined at every call, also without optimisation, so that no weak symbol is left behind. Members
/// of types outside the tagged namespace carry it: see ZEROTUNE_ABI.
#define ZEROTUNE_ALWAYS_INLINE [[gnu::always_inline]] ZEROTUNE_HOST_DEVICE inline
/// The same for functions that call what only a host has: containers, executors.
#define ZEROTUNE_ALWAYS_INLINE_HOST [[gnu::always_inline]] inline

/// 1 where errors are thrown; 0 where the error handler is called (core/error.hpp).
#ifndef ZEROTUNE_EXCEPTIONS
#if defined(__cpp_exceptions) && __cpp_exceptions
#define ZEROTUNE_EXCEPTIONS 1
#else
#define ZEROTUNE_EXCEPTIONS 0
#endif
#endif

/// 1 where AMX's tiles of bfloat16 may be compiled. Clang before 15 spells its macros without the
/// second underscore.
#if (defined(__AMX_TILE__) && defined(__AMX_BF16__)) || \
    (defined(__AMXTILE__) && defined(__AMXBF16__))
#define ZEROTUNE_HAS_AMX 1
#else
#define ZEROTUNE_HAS_AMX 0
#endif

/// Tells the processor that a loop waits for another thread.
#if defined(__x86_64__) || defined(__i386__)
#define ZEROTUNE_SPIN_PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define ZEROTUNE_SPIN_PAUSE() __asm__ volatile("yield")
#else
#define ZEROTUNE_SPIN_PAUSE() ((void)0)
#endif

// --- the tag of the inline namespace ------------------------------------------------------------
// Functions compiled with other instructions, other floating-point rules or other error handling
// are other functions. Each such choice is a part of the name of the inline namespace that they
// live in, so that a linker can never put one in the place of another.

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#if ZEROTUNE_HAS_AMX && defined(__AVX512BF16__)
#define ZEROTUNE_TAG_ARCH avx512_amx
#elif defined(__AVX512FP16__) && defined(__AVX512BF16__)
#define ZEROTUNE_TAG_ARCH avx512_fp16_bf16
#elif defined(__AVX512FP16__)
#define ZEROTUNE_TAG_ARCH avx512_fp16
#elif defined(__AVX512BF16__)
#define ZEROTUNE_TAG_ARCH avx512_bf16
#else
#define ZEROTUNE_TAG_ARCH avx512
#endif
#elif defined(__AVX512F__)
#define ZEROTUNE_TAG_ARCH avx512f
#elif defined(__AVX2__)
#define ZEROTUNE_TAG_ARCH avx2
#elif defined(__AVX__)
#define ZEROTUNE_TAG_ARCH avx
#elif defined(__SSE4_2__)
#define ZEROTUNE_TAG_ARCH sse4_2
#elif defined(__SSE4_1__)
#define ZEROTUNE_TAG_ARCH sse4_1
#elif defined(__SSSE3__)
#define ZEROTUNE_TAG_ARCH ssse3
#elif defined(__SSE3__)
#define ZEROTUNE_TAG_ARCH sse3
#elif defined(__SSE2__)
#define ZEROTUNE_TAG_ARCH sse2
#elif defined(__ARM_FEATURE_SVE)
#define ZEROTUNE_TAG_ARCH sve
#elif defined(__ARM_NEON)
#define ZEROTUNE_TAG_ARCH neon
#else
#define ZEROTUNE_TAG_ARCH generic
#endif

#if defined(__FMA__)
#define ZEROTUNE_TAG_FMA _fma
#else
#define ZEROTUNE_TAG_FMA
#endif
#if defined(__F16C__)
#define ZEROTUNE_TAG_F16C _f16c
#else
#define ZEROTUNE_TAG_F16C
#endif
// Sums may be taken apart. (Clang says so of -ffast-math as a whole alone.)
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__)
#define ZEROTUNE_ASSOCIATIVE_MATH 1
#else
#define ZEROTUNE_ASSOCIATIVE_MATH 0
#endif
#if defined(__FAST_MATH__)
#define ZEROTUNE_TAG_MATH _fast
#elif ZEROTUNE_ASSOCIATIVE_MATH && defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#define ZEROTUNE_TAG_MATH _associative_finite
#elif ZEROTUNE_ASSOCIATIVE_MATH
#define ZEROTUNE_TAG_MATH _associative
#elif defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#define ZEROTUNE_TAG_MATH _finite
#else
#define ZEROTUNE_TAG_MATH
#endif
#if ZEROTUNE_EXCEPTIONS
#define ZEROTUNE_TAG_ERRORS
#else
#define ZEROTUNE_TAG_ERRORS _noexc
#endif

#define ZEROTUNE_CONCAT_I(a, b, c, d, e) zt_##a##b##c##d##e
#define ZEROTUNE_CONCAT(a, b, c, d, e) ZEROTUNE_CONCAT_I(a, b, c, d, e)
/// Name of the inline namespace of every function of the library in this translation unit.
#define ZEROTUNE_ABI                                                                         \
  ZEROTUNE_CONCAT(ZEROTUNE_TAG_ARCH, ZEROTUNE_TAG_FMA, ZEROTUNE_TAG_F16C, ZEROTUNE_TAG_MATH, \
                  ZEROTUNE_TAG_ERRORS)

#define ZEROTUNE_STRINGISE_I(x) #x
#define ZEROTUNE_STRINGISE(x) ZEROTUNE_STRINGISE_I(x)
/// The same as text, for reports.
#define ZEROTUNE_ABI_NAME ZEROTUNE_STRINGISE(ZEROTUNE_ABI)
