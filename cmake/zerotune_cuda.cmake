# SPDX-License-Identifier: Apache-2.0
# zerotune::cuda: the headers of the CUDA back end. They are *.cuh, so no other target carries them.
# A project that compiles CUDA needs nothing else, its compiler brings the runtime; a project that
# links objects with a host compiler asks for the runtime with -DZEROTUNE_CUDA_RUNTIME=ON.

option(ZEROTUNE_CUDA_RUNTIME "Look for the CUDA toolkit and link zerotune::cuda to its runtime" OFF)

file(GLOB_RECURSE zerotune_cuda_headers CONFIGURE_DEPENDS
     "${PROJECT_SOURCE_DIR}/include/zerotune/*.cuh")

add_library(zerotune_cuda INTERFACE)
add_library(zerotune::cuda ALIAS zerotune_cuda)
set_target_properties(zerotune_cuda PROPERTIES EXPORT_NAME cuda VERIFY_INTERFACE_HEADER_SETS OFF)
target_sources(
  zerotune_cuda INTERFACE FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include"
                          FILES ${zerotune_cuda_headers})
target_compile_features(zerotune_cuda INTERFACE cxx_std_20)
target_link_libraries(zerotune_cuda INTERFACE zerotune)
if(ZEROTUNE_CUDA_RUNTIME)
  find_package(CUDAToolkit REQUIRED)
  target_link_libraries(zerotune_cuda INTERFACE $<BUILD_INTERFACE:CUDA::cudart>
                                                $<INSTALL_INTERFACE:CUDA::cudart>)
endif()
