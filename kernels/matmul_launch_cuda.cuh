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
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxSharedBytes);
  if (error != cudaSuccess) {
    return error;
  }
  return LaunchOverlappingClusters(kernel,
                                   launch.params.cluster,
                                   dim3(static_cast<unsigned>(launch.grid)),
                                   threads,
                                   launch.shared_bytes,
                                   stream,
                                   launch.params,
                                   launch.x_map,
                                   launch.weight_map);
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
