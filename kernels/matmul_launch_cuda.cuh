// The launch of the sm_90a matrix product, to be instantiated in several files so that they compile
// side by side.
#pragma once

#include "kernels/launch_cuda.h"
#include "kernels/matmul_hopper_cuda.cuh"
#include "kernels/matmul_rows_cuda.cuh"

namespace ringserve::cuda::matmul {

// Of a plan (matmul_plan_cuda.h).
inline constexpr int32_t kMaxSharedBytes = 226 * 1024;

using Kernel = void (*)(HopperParams, CUtensorMap, CUtensorMap);

inline cudaError_t LaunchKernel(Kernel kernel,
                                int32_t threads,
                                const HopperLaunch& launch,
                                cudaStream_t stream) {
  // The most of any launch: the attribute belongs to the kernel, and another thread may be between
  // setting it and its own launch.
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxSharedBytes);
  if (error == cudaSuccess) {
    error = PreferSharedMemory(kernel);
  }
  if (error != cudaSuccess) {
    return error;
  }
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {static_cast<unsigned>(launch.params.cluster), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(launch.grid));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(launch.shared_bytes);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = launch.params.cluster > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, kernel, launch.params, launch.x_map, launch.weight_map);
}

template <typename T, int32_t kColumns, int32_t kGroups, bool kGated>
cudaError_t LaunchHopper(const HopperLaunch& launch, cudaStream_t stream) {
  return LaunchKernel(
      MatMulHopperKernel<T, kColumns, kGroups, kGated>, kThreads<kGroups>, launch, stream);
}

template <typename T, int32_t kBlocks, bool kGated>
cudaError_t LaunchRows(const HopperLaunch& launch, cudaStream_t stream) {
  return LaunchKernel(MatMulRowsKernel<T, kBlocks, kGated>, kRowsThreads, launch, stream);
}

#define RINGSERVE_INSTANTIATE(T, COLUMNS, GROUPS, GATED)                                   \
  template cudaError_t LaunchHopper<T, COLUMNS, GROUPS, GATED>(const HopperLaunch& launch, \
                                                               cudaStream_t stream)

#define RINGSERVE_INSTANTIATE_ALL(T, COLUMNS, GROUPS) \
  RINGSERVE_INSTANTIATE(T, COLUMNS, GROUPS, false);   \
  RINGSERVE_INSTANTIATE(T, COLUMNS, GROUPS, true)

}  // namespace ringserve::cuda::matmul
