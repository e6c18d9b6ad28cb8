# SPDX-License-Identifier: Apache-2.0
# Functions that make the executables of the unit tests.

include(CheckCXXSourceRuns)
include(GoogleTest)

# In a typed test `using type = typename TestFixture::type` hides a member of the fixture. A library
# of its own, so that the option comes after those of zerotune_development.
add_library(zerotune_test_warnings INTERFACE)
target_compile_options(zerotune_test_warnings INTERFACE -Wno-shadow)

# What every unit test is compiled and linked with.
function(zerotune_test_properties target)
  target_include_directories(${target} PRIVATE "${PROJECT_SOURCE_DIR}/tests"
                                               "${PROJECT_SOURCE_DIR}/examples")
  target_compile_definitions(
    ${target} PRIVATE ZEROTUNE_TESTS_DIR="${PROJECT_SOURCE_DIR}/tests"
                      ZEROTUNE_EXAMPLES_DIR="${PROJECT_SOURCE_DIR}/examples")
  target_link_libraries(${target} PRIVATE zerotune::zerotune zerotune_development
                                          zerotune_test_warnings GTest::gtest GTest::gtest_main)
  target_compile_options(${target} PRIVATE ${ZEROTUNE_TEST_OPTIMIZATION})
  if(ZEROTUNE_TEST_FEW_TYPES)
    target_compile_definitions(${target} PRIVATE ZEROTUNE_TEST_FEW_TYPES)
  endif()
  foreach(part simd eigen tuning)
    if(TARGET zerotune::${part})
      target_link_libraries(${target} PRIVATE zerotune::${part})
    endif()
  endforeach()
  foreach(library rapidcheck rapidcheck_gtest OpenMP::OpenMP_CXX)
    if(TARGET ${library})
      target_link_libraries(${target} PRIVATE ${library})
    endif()
  endforeach()
endfunction()

# zerotune_add_unit_tests(<folder>): one executable from tests/<folder>/*.cpp. Where the folder has
# a CMakeLists.txt, that says how instead.
function(zerotune_add_unit_tests folder)
  set(directory "${CMAKE_CURRENT_SOURCE_DIR}/${folder}")
  if(NOT ZEROTUNE_TEST_LAYERS STREQUAL "all" AND NOT folder IN_LIST ZEROTUNE_TEST_LAYERS)
    return()
  endif()
  if(EXISTS "${directory}/CMakeLists.txt")
    add_subdirectory("${folder}")
    return()
  endif()
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${directory}/*.cpp")
  if(ZEROTUNE_TEST_FILES)
    list(FILTER sources INCLUDE REGEX "${ZEROTUNE_TEST_FILES}")
  endif()
  if(NOT sources)
    return()
  endif()
  string(REPLACE "/" "_" name "${folder}")
  string(REPLACE "/" "." prefix "${folder}")
  set(libraries "")
  if(folder MATCHES "^examples/")
    set(libraries zerotune_llama)
    if(folder STREQUAL "examples/zerotune")
      set(libraries zerotune_program_parts)
    endif()
    if(NOT TARGET ${libraries})
      message(STATUS "zerotune: tests/${folder} is skipped, ${libraries} is not built")
      return()
    endif()
  endif()
  foreach(part simd eigen tuning)
    if(NOT TARGET zerotune::${part})
      set(pattern "${zerotune_${part}_pattern}")
      foreach(source IN LISTS sources)
        file(READ "${source}" text)
        if(text MATCHES "zerotune${pattern}")
          list(REMOVE_ITEM sources "${source}")
          message(STATUS "zerotune: ${source} is skipped, zerotune::${part} is missing")
        endif()
      endforeach()
    endif()
  endforeach()
  zerotune_add_test_executable(zerotune_test_${name} "${prefix}." "" "" "${sources}" "${libraries}")

  # The back end simd is the instruction set of its translation unit: kernels once more for each of
  # them, what is made of kernels for the widest, unless every combination is asked for.
  if(NOT folder MATCHES "^(kernel|apply|analysis|properties)$" OR NOT TARGET zerotune::simd)
    return()
  endif()
  set(sets ${ZEROTUNE_TEST_ARCHITECTURES})
  # Its products of bfloat16 pairs are what it has beyond avx512.
  if(folder MATCHES "^(kernel|properties)$" AND avx512 IN_LIST sets)
    list(APPEND sets avx512_bf16)
  endif()
  set(widest "")
  foreach(set IN LISTS sets)
    zerotune_cpu_runs(${set} runs_${set})
    if(runs_${set})
      set(widest ${set})
    endif()
  endforeach()
  foreach(set IN LISTS sets)
    if(NOT runs_${set})
      add_test(NAME ${prefix}.${set} COMMAND "${CMAKE_COMMAND}" -E false)
      set_tests_properties(${prefix}.${set} PROPERTIES LABELS unit DISABLED ON)
    elseif(folder MATCHES "^(kernel|analysis)$" OR set STREQUAL widest
           OR ZEROTUNE_TEST_EVERY_COMBINATION)
      set(target zerotune_test_${name}_${set})
      zerotune_add_test_executable(${target} "${prefix}.${set}." "*simd*"
                                   "${ZEROTUNE_FLAGS_${set}}" "${sources}" "")
      # Where the two that differ in products of bfloat16 both run, one has all types.
      if(NOT ZEROTUNE_TEST_EVERY_COMBINATION
         AND (NOT folder STREQUAL "kernel" OR (set STREQUAL "avx512" AND runs_avx512_bf16)))
        target_compile_definitions(${target} PRIVATE ZEROTUNE_TEST_FEW_TYPES)
      endif()
    endif()
  endforeach()
endfunction()

# Whether this CPU has the instructions that ZEROTUNE_FLAGS_<architecture> allow.
function(zerotune_cpu_runs architecture result)
  if(CMAKE_CROSSCOMPILING)
    set(${result} OFF PARENT_SCOPE)
    return()
  endif()
  set(features_sse2 sse2)
  set(features_avx2 avx2 fma)
  set(features_avx512 avx512f avx512bw avx512dq avx512vl)
  set(features_avx512_bf16 ${features_avx512} avx512bf16)
  set(condition "true")
  foreach(feature IN LISTS features_${architecture})
    string(APPEND condition " && __builtin_cpu_supports(\"${feature}\")")
  endforeach()
  check_cxx_source_runs("int main() { return ${condition} ? 0 : 1; }"
                        ZEROTUNE_CPU_RUNS_${architecture})
  set(${result} ${ZEROTUNE_CPU_RUNS_${architecture}} PARENT_SCOPE)
endfunction()

function(zerotune_test_architecture target flags)
  target_compile_options(${target} PRIVATE ${flags})
  if(flags)
    # The other back ends, which the first executable tests, are left out.
    target_compile_definitions(${target} PRIVATE ZEROTUNE_TEST_ONLY_SIMD)
  endif()
endfunction()

# The flags let ccache see through a precompiled header.
function(zerotune_let_ccache_see_through target)
  target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess>
                                           "$<$<CXX_COMPILER_ID:Clang>:SHELL:-Xclang -fno-pch-timestamp>")
endfunction()

# zerotune_precompile_tests(<target> <flags>): a precompiled header of what every unit test includes.
function(zerotune_precompile_tests target flags)
  if(TARGET ${target})
    return()
  endif()
  set(source "${CMAKE_CURRENT_BINARY_DIR}/precompiled.cpp")
  file(CONFIGURE OUTPUT "${source}" CONTENT "// SPDX-License-Identifier: Apache-2.0\n")
  add_library(${target} OBJECT "${source}")
  zerotune_test_properties(${target})
  zerotune_test_architecture(${target} "${flags}")
  zerotune_let_ccache_see_through(${target})
  target_precompile_headers(${target} PRIVATE <gtest/gtest.h> <cmath> <cstdint> <limits> <string>
                            <vector>)
endfunction()

# zerotune_add_test_executable(<target> <prefix> <filter> <flags> <sources> <libraries>)
function(zerotune_add_test_executable target prefix filter flags sources libraries)
  add_executable(${target} ${sources})
  add_dependencies(zerotune_unit_tests ${target})
  zerotune_test_properties(${target})
  target_link_libraries(${target} PRIVATE ${libraries})
  zerotune_test_architecture(${target} "${flags}")
  if(NOT libraries)
    # One precompiled header for each instruction set: the flags have to be the same.
    set(precompiled zerotune_test_precompiled)
    if(flags)
      string(MAKE_C_IDENTIFIER "${precompiled}_${flags}" precompiled)
    endif()
    zerotune_precompile_tests(${precompiled} "${flags}")
    zerotune_let_ccache_see_through(${target})
    target_precompile_headers(${target} REUSE_FROM ${precompiled})
  endif()
  set(filter_argument "")
  if(filter)
    set(filter_argument TEST_FILTER "${filter}")
  endif()
  # Found when the tests run, so that a build does not have to start what it has built.
  gtest_discover_tests(
    ${target}
    TEST_PREFIX "${prefix}"
    ${filter_argument}
    DISCOVERY_MODE PRE_TEST
    DISCOVERY_TIMEOUT 60
    WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
    PROPERTIES LABELS unit TIMEOUT 1800)
endfunction()
