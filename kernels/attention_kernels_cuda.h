// The launches that LaunchAttentionCuda chooses from. One instantiation per element type and
// head_dim, spread over several files so that they compile side by side.
#pragma once

#include <cstdint>

#include <cuda.h>
#include <cuda_runtime.h>

#include "kernels/attention_cuda_params.cuh"

namespace ringserve::cuda {

struct LaunchLimits {
  int32_t num_sms = 0;
  int32_t shared_bytes = 0;  // most a block may have
};

// Tensor maps (host memory) of the pool and of the queries of this call.
struct TensorMaps {
  CUtensorMap kv;
  CUtensorMap queries;
  int32_t box_shift = 0;    // log2 of the keys of a box of kv
  int32_t query_heads = 0;  // heads of a box of queries
};

// Launches with programmatic dependent launch (sm_90 and later): the kernel may start under the end
// of the one before it, and calls WaitForPreviousKernel before it touches what that one wrote.
template <typename... Params, typename... Args>
cudaError_t LaunchOverlapping(void (*kernel)(Params...),
                              dim3 grid,
                              int32_t threads,
                              int32_t shared_bytes,
                              cudaStream_t stream,
                              const Args&... args) {
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, args...);
}

// sm_80 and later.
template <typename T, int32_t kHeadDim>
cudaError_t LaunchDecode(const AttentionCudaParams& params,
                         const LaunchLimits& limits,
                         cudaStream_t stream);
template <typename T, int32_t kHeadDim>
cudaError_t LaunchPrefill(const AttentionCudaParams& params,
                          const LaunchLimits& limits,
                          cudaStream_t stream);
template <typename T, int32_t kHeadDim>
cudaError_t LaunchMerge(const AttentionCudaParams& params,
                        const AttentionPlanView& plan,
                        bool overlap,
                        cudaStream_t stream);

// sm_90a.
template <typename T, int32_t kHeadDim>
cudaError_t LaunchDecodeHopper(const AttentionCudaParams& params,
                               const LaunchLimits& limits,
                               const TensorMaps& maps,
                               cudaStream_t stream);
template <typename T, int32_t kHeadDim>
cudaError_t LaunchPrefillHopper(const AttentionCudaParams& params,
                                const LaunchLimits& limits,
                                const TensorMaps& maps,
                                cudaStream_t stream);

// Floats of AttentionCudaParams::scratch that the prefill kernels use on a device of num_sms.
int64_t PrefillScratchFloats(int32_t num_sms, int32_t head_dim);

}  // namespace ringserve::cuda
