// Launches with programmatic dependent launch.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

namespace ringserve::cuda {

// As much of a multiprocessor's first level as there is becomes shared memory under the kernel. How
// much changes only when nothing runs there: a kernel that wanted less than its neighbour could
// neither start under the neighbour's end nor let the next one in.
template <typename... Params>
cudaError_t PreferSharedMemory(void (*kernel)(Params...)) {
  return cudaFuncSetAttribute(
      kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
}

// The kernel may start under the end of the one before it, and calls WaitForPreviousKernel before
// it touches what that one wrote. An ordinary launch where the current device is older than sm_90.
// `cluster`: of so many blocks; 1 unless the kernel is for sm_90.
template <typename... Params, typename... Args>
cudaError_t LaunchOverlappingClusters(void (*kernel)(Params...),
                                      int32_t cluster,
                                      dim3 grid,
                                      int32_t threads,
                                      int32_t shared_bytes,
                                      cudaStream_t stream,
                                      const Args&... args) {
  int device = 0;
  int major = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  }
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
  attributes[1].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = major < 9 ? 0 : cluster == 1 ? 1 : 2;
  return cudaLaunchKernelEx(&config, kernel, args...);
}

template <typename... Params, typename... Args>
cudaError_t LaunchOverlapping(void (*kernel)(Params...),
                              dim3 grid,
                              int32_t threads,
                              int32_t shared_bytes,
                              cudaStream_t stream,
                              const Args&... args) {
  return LaunchOverlappingClusters(kernel, 1, grid, threads, shared_bytes, stream, args...);
}

}  // namespace ringserve::cuda
