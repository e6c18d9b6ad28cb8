# SPDX-License-Identifier: Apache-2.0
# The header-only targets. Each optional part is a target of its own with its headers and its one
# dependency; where the dependency is missing the alias zerotune::<part> does not exist, but the
# headers can still be installed. No flags, warnings or architectures: those are the consumer's.

# A project around us shall not look at our folders in each of its builds.
set(zerotune_glob_mode "")
if(PROJECT_IS_TOP_LEVEL)
  set(zerotune_glob_mode CONFIGURE_DEPENDS)
endif()
file(GLOB_RECURSE zerotune_headers ${zerotune_glob_mode}
     "${PROJECT_SOURCE_DIR}/include/zerotune/*.hpp")

# Headers that need a library, by part. Everything else is the core.
set(zerotune_simd_pattern "/kernel/simd/")
set(zerotune_eigen_pattern "/(kernel/eigen/|interop/eigen)")
set(zerotune_tuning_pattern "/tuning/json")

foreach(part simd eigen tuning)
  set(zerotune_${part}_headers ${zerotune_headers})
  list(FILTER zerotune_${part}_headers INCLUDE REGEX "${zerotune_${part}_pattern}")
  list(FILTER zerotune_headers EXCLUDE REGEX "${zerotune_${part}_pattern}")
endforeach()

find_package(Threads REQUIRED)

add_library(zerotune INTERFACE)
add_library(zerotune::zerotune ALIAS zerotune)
target_sources(
  zerotune INTERFACE FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include"
                     FILES ${zerotune_headers})
target_compile_features(zerotune INTERFACE cxx_std_20)
target_link_libraries(zerotune INTERFACE Threads::Threads)

# zerotune_add_part(<part> <target of its dependency>)
function(zerotune_add_part part dependency)
  add_library(zerotune_${part} INTERFACE)
  set_target_properties(zerotune_${part} PROPERTIES EXPORT_NAME ${part})
  target_sources(
    zerotune_${part} INTERFACE FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include"
                               FILES ${zerotune_${part}_headers})
  target_link_libraries(zerotune_${part} INTERFACE zerotune $<INSTALL_INTERFACE:${dependency}>)
  if(TARGET ${dependency})
    target_link_libraries(zerotune_${part} INTERFACE $<BUILD_INTERFACE:${dependency}>)
    add_library(zerotune::${part} ALIAS zerotune_${part})
  else()
    set_target_properties(zerotune_${part} PROPERTIES VERIFY_INTERFACE_HEADER_SETS OFF)
    message(STATUS "zerotune: ${dependency} not found, zerotune::${part} is skipped")
  endif()
endfunction()

include(ZerotuneXsimd)
zerotune_add_part(simd zerotune::xsimd)

find_package(Eigen3 3.4 QUIET NO_MODULE)
zerotune_add_part(eigen Eigen3::Eigen)

find_package(nlohmann_json 3.10 QUIET)
zerotune_add_part(tuning nlohmann_json::nlohmann_json)
