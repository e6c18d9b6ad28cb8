# SPDX-License-Identifier: Apache-2.0
# Defines zerotune::xsimd, the headers of xsimd and nothing else. Debian's 8.1.0 exports a target
# `xsimd` that links a library `xtl` which it does not ship; later releases export `xsimd` with
# other extras. Only the include directory is wanted. Installed beside the package config.

if(NOT TARGET zerotune::xsimd)
  if(NOT TARGET xsimd)
    find_package(xsimd QUIET CONFIG)
  endif()
  set(zerotune_xsimd_directories "")
  if(TARGET xsimd)
    get_target_property(zerotune_xsimd_imported xsimd IMPORTED)
    if(zerotune_xsimd_imported)
      # Read now: an imported target is not known outside of this directory.
      get_target_property(zerotune_xsimd_directories xsimd INTERFACE_INCLUDE_DIRECTORIES)
    else()
      # An expression: a project that builds xsimd beside us may add to its target later.
      set(zerotune_xsimd_directories "$<TARGET_PROPERTY:xsimd,INTERFACE_INCLUDE_DIRECTORIES>")
    endif()
  else()
    find_path(ZEROTUNE_XSIMD_INCLUDE_DIR xsimd/xsimd.hpp)
    mark_as_advanced(ZEROTUNE_XSIMD_INCLUDE_DIR)
    if(ZEROTUNE_XSIMD_INCLUDE_DIR)
      set(zerotune_xsimd_directories "${ZEROTUNE_XSIMD_INCLUDE_DIR}")
    endif()
  endif()
  if(zerotune_xsimd_directories)
    add_library(zerotune::xsimd INTERFACE IMPORTED GLOBAL)
    set_target_properties(
      zerotune::xsimd PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${zerotune_xsimd_directories}")
  endif()
endif()
