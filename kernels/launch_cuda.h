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
template <typename... Params, typename... Args>
cudaError_t LaunchOverlapping(void (*kernel)(Params...),
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
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = major >= 9 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, args...);
}

}  // namespace ringserve::cuda
