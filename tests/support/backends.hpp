// SPDX-License-Identifier: Apache-2.0
// The back ends that are there, as lists of types for typed tests. An absent one is not tested and
// the suite says so (apply/backends.cpp).
#pragma once

#include <gtest/gtest.h>

#include "zerotune/core/backend.hpp"
#include "zerotune/core/types.hpp"

#if __has_include("zerotune/kernel/simd/simd.hpp") && __has_include(<xsimd/xsimd.hpp>)
#include "zerotune/kernel/simd/simd.hpp"
#define ZEROTUNE_TEST_SIMD 1
#else
#define ZEROTUNE_TEST_SIMD 0
#endif
#if __has_include("zerotune/kernel/eigen/eigen.hpp") && __has_include(<Eigen/Core>)
#include "zerotune/kernel/eigen/eigen.hpp"
#define ZEROTUNE_TEST_EIGEN 1
#else
#define ZEROTUNE_TEST_EIGEN 0
#endif

namespace test {

/// A back end and an element type: the parameter of a typed test.
template <class Backend, class T>
struct kernel {
  using backend = Backend;
  using type = T;
};

template <class... Lists>
struct concatenate;
template <class... A>
struct concatenate<::testing::Types<A...>> {
  using type = ::testing::Types<A...>;
};
template <class... A, class... B, class... Rest>
struct concatenate<::testing::Types<A...>, ::testing::Types<B...>, Rest...> {
  using type = typename concatenate<::testing::Types<A..., B...>, Rest...>::type;
};

// What the build wants to have less of: ZEROTUNE_TEST_ONLY_SIMD (a second build for an instruction
// set, which changes nothing in the other back ends) and ZEROTUNE_TEST_FEW_TYPES.

/// One 32-bit and one 16-bit type.
template <class Backend>
using two_types = ::testing::Types<kernel<Backend, float>, kernel<Backend, zerotune::bfloat16>>;
#if defined(ZEROTUNE_TEST_FEW_TYPES)
template <class Backend>
using all_types = two_types<Backend>;
template <class Backend>
using float_types = ::testing::Types<kernel<Backend, float>>;
#else
template <class Backend>
using all_types =
    ::testing::Types<kernel<Backend, float>, kernel<Backend, double>,
                     kernel<Backend, zerotune::float16>, kernel<Backend, zerotune::bfloat16>>;
template <class Backend>
using float_types = ::testing::Types<kernel<Backend, float>, kernel<Backend, double>>;
#endif

using none = ::testing::Types<>;
#if !defined(ZEROTUNE_TEST_ONLY_SIMD)
using scalar_kernels = all_types<zerotune::backend::scalar>;
using scalar_fault_kernels = two_types<zerotune::backend::scalar>;
#else
using scalar_kernels = none;
using scalar_fault_kernels = none;
#endif
#if ZEROTUNE_TEST_SIMD
using simd_kernels = all_types<zerotune::backend::simd<>>;
using simd_fault_kernels = two_types<zerotune::backend::simd<>>;
#else
using simd_kernels = none;
using simd_fault_kernels = none;
#endif
#if ZEROTUNE_TEST_EIGEN && !defined(ZEROTUNE_TEST_ONLY_SIMD)
using eigen_kernels = float_types<zerotune::backend::eigen>;
using eigen_fault_kernels = ::testing::Types<kernel<zerotune::backend::eigen, float>>;
#else
using eigen_kernels = none;
using eigen_fault_kernels = none;
#endif

/// Two types per back end, for tests of all forms at once: faults are decided by positions and
/// checks, which the element type has little part in.
using attention_fault_kernels =
    typename concatenate<scalar_fault_kernels, simd_fault_kernels>::type;
using fault_kernels =
    typename concatenate<scalar_fault_kernels, simd_fault_kernels, eigen_fault_kernels>::type;

/// What has an attention of its own.
using attention_kernels = typename concatenate<scalar_kernels, simd_kernels>::type;
/// What has the other forms.
using form_kernels = typename concatenate<scalar_kernels, simd_kernels, eigen_kernels>::type;

template <class T>
struct names;
template <>
struct names<float> {
  static constexpr const char* value = "float";
};
template <>
struct names<double> {
  static constexpr const char* value = "double";
};
template <>
struct names<zerotune::float16> {
  static constexpr const char* value = "float16";
};
template <>
struct names<zerotune::bfloat16> {
  static constexpr const char* value = "bfloat16";
};
template <>
struct names<zerotune::backend::scalar> {
  static constexpr const char* value = "scalar";
};
template <class Arch>
struct names<zerotune::backend::simd<Arch>> {
  static constexpr const char* value = "simd";
};
template <>
struct names<zerotune::backend::eigen> {
  static constexpr const char* value = "eigen";
};

/// Names a typed test after its back end and element type.
struct kernel_names {
  template <class Kernel>
  static std::string GetName(int) {
    return std::string(names<typename Kernel::backend>::value) + "_" +
           names<typename Kernel::type>::value;
  }
};

}  // namespace test
