# RINGSERVE_CUDA: nvcc for the .cu files of kernels/. CMAKE_CUDA_STANDARD stays unset, because
# CMake 3.25 cannot spell nvcc's C++20; the architectures are A100 and newer, and Hopper's own
# instructions (wgmma, TMA), which need the "a".
file(GLOB cuda_sources ${PROJECT_SOURCE_DIR}/kernels/*.cu)  # asked only whether there are any
if(NOT cuda_sources)
  message(FATAL_ERROR
    "RINGSERVE_CUDA=ON, but this version of ringserve has no CUDA kernels; configure without it.")
endif()
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80 90a-real)
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(FATAL_ERROR
    "RINGSERVE_CUDA=ON needs the CUDA toolkit; set CMAKE_CUDA_COMPILER to the path of its nvcc.")
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
target_compile_options(ringserve_flags INTERFACE
  "$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20;--expt-relaxed-constexpr;-Xcompiler=-Wall,-Wextra>")

# What proves that the CUDA code builds: the server with it, and the programs of tests/cuda_tests.cmake.
add_custom_target(cuda)
add_dependencies(cuda ringserve)
