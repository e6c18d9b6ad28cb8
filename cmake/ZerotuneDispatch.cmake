# SPDX-License-Identifier: Apache-2.0
# Run-time dispatch: source files of yours, compiled once per instruction set into one program that
# takes the best one that the machine has.
#
#   zerotune_add_dispatch(<target> NAME <name> TYPE <type> HEADER <header> SOURCES <file>...
#                         [INSTRUCTION_SETS avx2 avx512 ...] [LIBRARIES <library>...]
#                         [DEFINITIONS <definition>...])
#
#   HEADER   declares TYPE, the type of a function with plain-data arguments: using kernel = void(args&);
#   SOURCES  define one such function under the name ZEROTUNE_DISPATCHED, a macro; they include
#            zerotune/core/, policy/ and kernel/ only and no inline functions that other files share
#   INSTRUCTION_SETS  beside the baseline; by default all that the compiler knows of
#                     avx2, avx512, avx512_bf16 and amx_bf16
#   LIBRARIES, DEFINITIONS  that the sources are compiled with, for example zerotune::simd
#
# The target then can #include "<name>_dispatch.hpp" and call
#
#   <name>_for(zerotune::allowed_instruction_set())(arguments);
#
# where the environment variable ZEROTUNE_INSTRUCTION_SET, or another argument, forces a lower set.

include_guard()
include(CheckCXXCompilerFlag)

# Sets, for the caller, ZEROTUNE_FLAGS_<set> and the list ZEROTUNE_INSTRUCTION_SETS: those beside the
# baseline that the compiler knows.
macro(zerotune_find_instruction_sets)
  set(ZEROTUNE_FLAGS_baseline "")
  set(ZEROTUNE_FLAGS_avx2 -mavx2 -mfma -mf16c)
  set(ZEROTUNE_FLAGS_avx512 ${ZEROTUNE_FLAGS_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl)
  set(ZEROTUNE_FLAGS_avx512_bf16 ${ZEROTUNE_FLAGS_avx512} -mavx512bf16)
  set(ZEROTUNE_FLAGS_amx_bf16 ${ZEROTUNE_FLAGS_avx512_bf16} -mamx-tile -mamx-bf16)
  set(ZEROTUNE_INSTRUCTION_SETS "")
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND NOT MSVC)
    foreach(zerotune_set avx2 avx512 avx512_bf16 amx_bf16)
      list(JOIN ZEROTUNE_FLAGS_${zerotune_set} " " zerotune_flags)
      check_cxx_compiler_flag("${zerotune_flags}" ZEROTUNE_COMPILER_HAS_${zerotune_set})
      if(NOT ZEROTUNE_COMPILER_HAS_${zerotune_set})
        break()
      endif()
      list(APPEND ZEROTUNE_INSTRUCTION_SETS ${zerotune_set})
    endforeach()
  endif()
endmacro()

function(zerotune_add_dispatch target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "NAME;TYPE;HEADER"
                        "SOURCES;INSTRUCTION_SETS;LIBRARIES;DEFINITIONS")
  foreach(needed NAME TYPE HEADER SOURCES)
    if(NOT arg_${needed})
      message(FATAL_ERROR "zerotune_add_dispatch(${target}): ${needed} is missing")
    endif()
  endforeach()
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "zerotune_add_dispatch(${target}): unknown: ${arg_UNPARSED_ARGUMENTS}")
  endif()
  zerotune_find_instruction_sets()
  set(sets baseline ${ZEROTUNE_INSTRUCTION_SETS})
  if(DEFINED arg_INSTRUCTION_SETS)
    foreach(set IN LISTS arg_INSTRUCTION_SETS)
      if(NOT DEFINED ZEROTUNE_FLAGS_${set})
        message(FATAL_ERROR "zerotune_add_dispatch(${target}): no instruction set '${set}'")
      endif()
    endforeach()
    list(JOIN arg_INSTRUCTION_SETS "|" wanted)
    list(FILTER sets INCLUDE REGEX "^(baseline|${wanted})$")
  endif()

  set(ZEROTUNE_DISPATCH_NAME ${arg_NAME})
  set(ZEROTUNE_DISPATCH_TYPE ${arg_TYPE})
  set(ZEROTUNE_DISPATCH_HEADER ${arg_HEADER})
  set(ZEROTUNE_DISPATCH_DECLARATIONS "")
  set(ZEROTUNE_DISPATCH_VARIANTS "")
  foreach(set IN LISTS sets)
    string(APPEND ZEROTUNE_DISPATCH_DECLARATIONS "${arg_TYPE} ${arg_NAME}_${set};\n")
    string(APPEND ZEROTUNE_DISPATCH_VARIANTS
           "    {zerotune::instruction_set::${set}, ${arg_NAME}_${set}},\n")
    set(variant ${target}_${arg_NAME}_${set})
    add_library(${variant} OBJECT ${arg_SOURCES})
    target_compile_definitions(${variant} PRIVATE ZEROTUNE_DISPATCHED=${arg_NAME}_${set}
                                                  ${arg_DEFINITIONS})
    target_compile_options(${variant} PRIVATE ${ZEROTUNE_FLAGS_${set}})
    target_include_directories(${variant} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
    # The objects become a part of the target alone.
    set_target_properties(${variant} PROPERTIES POSITION_INDEPENDENT_CODE ON
                                                CXX_VISIBILITY_PRESET hidden
                                                VISIBILITY_INLINES_HIDDEN ON)
    target_link_libraries(${variant} PRIVATE zerotune::zerotune ${arg_LIBRARIES})
    target_link_libraries(${target} PRIVATE ${variant})
  endforeach()
  set(directory "${CMAKE_CURRENT_BINARY_DIR}/zerotune_dispatch")
  foreach(kind hpp cpp)
    configure_file("${CMAKE_CURRENT_FUNCTION_LIST_DIR}/dispatch.${kind}.in"
                   "${directory}/${arg_NAME}_dispatch.${kind}" @ONLY)
  endforeach()
  target_sources(${target} PRIVATE "${directory}/${arg_NAME}_dispatch.cpp")
  target_include_directories(${target} PRIVATE "${directory}" "${CMAKE_CURRENT_SOURCE_DIR}")
endfunction()
