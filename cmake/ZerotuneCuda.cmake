# SPDX-License-Identifier: Apache-2.0
# zerotune::cuda: the headers of the CUDA back end. They are *.cuh, so no other target carries them.
# It needs nothing to be installed: the compiler of CUDA sources brings the runtime. Objects that a
# host compiler links need CUDA::cudart beside it.

file(GLOB_RECURSE zerotune_cuda_headers ${zerotune_glob_mode}
     "${PROJECT_SOURCE_DIR}/include/zerotune/*.cuh")

add_library(zerotune_cuda INTERFACE)
add_library(zerotune::cuda ALIAS zerotune_cuda)
# CMake does not know *.cuh as headers to verify: tests/cuda compiles each alone.
set_target_properties(zerotune_cuda PROPERTIES EXPORT_NAME cuda VERIFY_INTERFACE_HEADER_SETS OFF)
target_sources(
  zerotune_cuda INTERFACE FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include"
                          FILES ${zerotune_cuda_headers})
target_link_libraries(zerotune_cuda INTERFACE zerotune)
