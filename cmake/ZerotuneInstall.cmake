# SPDX-License-Identifier: Apache-2.0
# Installs the headers, the package config (one export per part, so that find_package looks for what
# was asked for and no more) and the pkg-config file. Works in a subproject as well.

include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(zerotune_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/zerotune")

foreach(part zerotune simd eigen tuning cuda)
  set(target zerotune_${part})
  if(part STREQUAL "zerotune")
    set(target zerotune)
  endif()
  install(TARGETS ${target} EXPORT zerotune-${part}-targets COMPONENT zerotune
          FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" COMPONENT zerotune)
  install(
    EXPORT zerotune-${part}-targets
    NAMESPACE zerotune::
    DESTINATION "${zerotune_package_dir}"
    COMPONENT zerotune)
endforeach()

configure_package_config_file(
  "${PROJECT_SOURCE_DIR}/cmake/zerotune-config.cmake.in"
  "${PROJECT_BINARY_DIR}/zerotune-config.cmake"
  INSTALL_DESTINATION "${zerotune_package_dir}"
  NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file(
  "${PROJECT_BINARY_DIR}/zerotune-config-version.cmake"
  COMPATIBILITY SameMinorVersion
  ARCH_INDEPENDENT)
install(
  FILES "${PROJECT_BINARY_DIR}/zerotune-config.cmake"
        "${PROJECT_BINARY_DIR}/zerotune-config-version.cmake"
        "${PROJECT_SOURCE_DIR}/cmake/ZerotuneDispatch.cmake"
        "${PROJECT_SOURCE_DIR}/cmake/ZerotuneXsimd.cmake"
        "${PROJECT_SOURCE_DIR}/cmake/dispatch.cpp.in"
        "${PROJECT_SOURCE_DIR}/cmake/dispatch.hpp.in"
  DESTINATION "${zerotune_package_dir}"
  COMPONENT zerotune)

# The prefix is relative to the file, so that an installation can be moved.
string(REGEX REPLACE "[^/]+" ".." zerotune_pc_up "${CMAKE_INSTALL_DATADIR}/pkgconfig")
configure_file("${PROJECT_SOURCE_DIR}/cmake/zerotune.pc.in" "${PROJECT_BINARY_DIR}/zerotune.pc"
               @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/zerotune.pc"
        DESTINATION "${CMAKE_INSTALL_DATADIR}/pkgconfig" COMPONENT zerotune)
