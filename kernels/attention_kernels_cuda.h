// The launches that LaunchAttentionCuda chooses from. One instantiation per element type and
// head_dim, spread over several files so that they compile side by side.
#pragma once

#include <cstdint>

#include <cuda.h>
#include <cuda_runtime.h>

#include "kernels/attention_cuda_params.cuh"
#include "kernels/launch_cuda.h"

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

// sm_80 and later. kGeneral: with whatever attention_cuda.h calls general, and any head_dim up to
// kHeadDim.
template <typename T, int32_t kHeadDim, bool kGeneral>
cudaError_t LaunchDecode(const AttentionCudaParams& params,
                         const LaunchLimits& limits,
                         cudaStream_t stream);
template <typename T, int32_t kHeadDim, bool kGeneral>
cudaError_t LaunchPrefill(const AttentionCudaParams& params,
                          const LaunchLimits& limits,
                          cudaStream_t stream);
template <typename T, int32_t kHeadDim, bool kGeneral>
cudaError_t LaunchMerge(const AttentionCudaParams& params,
                        const AttentionPlanView& plan,
                        bool overlap,
                        cudaStream_t stream);

// Of RopeAppendArgs, what kernels need that rotate and append.
struct AppendedRows {
  const float* qkv = nullptr;  // null: rows are rotated and appended already
  const float* angles = nullptr;
  const int64_t* slots = nullptr;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
};

inline constexpr int32_t kRowBlocks = 8;  // of LaunchRowHopper, an item

// Most of an item of LaunchRowHopper.
struct RowLimits {
  int32_t num_tiles = 0;
  int32_t num_heads = 0;
};

// Of a block of LaunchRowHopper.
int32_t RowSharedBytes(int32_t head_dim, const RowLimits& limits);

// sm_90a. AttentionPlanView::row_tiles is not 0, and head_dim 64 or 128.
template <typename T, int32_t kHeadDim>
cudaError_t LaunchRowHopper(const AttentionCudaParams& params,
                            const AppendedRows& rows,
                            const RowLimits& limits,
                            cudaStream_t stream);

// sm_90a. With rows to append head_dim is 64 or 128, and AttentionPlanView::own_keys says that
// their keys are there.
template <typename T, int32_t kHeadDim>
cudaError_t LaunchDecodeHopper(const AttentionCudaParams& params,
                               const AppendedRows& rows,
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
