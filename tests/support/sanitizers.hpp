// SPDX-License-Identifier: Apache-2.0
#pragma once

// Which sanitizer this translation unit is compiled with: GCC defines a macro, Clang has a feature.
#if defined(__has_feature)
#define ZEROTUNE_TEST_HAS_FEATURE(name) __has_feature(name)
#else
#define ZEROTUNE_TEST_HAS_FEATURE(name) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || ZEROTUNE_TEST_HAS_FEATURE(address_sanitizer)
#define ZEROTUNE_TEST_ADDRESS_SANITIZER 1
#else
#define ZEROTUNE_TEST_ADDRESS_SANITIZER 0
#endif
#if defined(__SANITIZE_THREAD__) || ZEROTUNE_TEST_HAS_FEATURE(thread_sanitizer)
#define ZEROTUNE_TEST_THREAD_SANITIZER 1
#else
#define ZEROTUNE_TEST_THREAD_SANITIZER 0
#endif
