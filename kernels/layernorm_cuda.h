// layernorm.h on a CUDA device. All pointers are device memory, 16-byte aligned; hidden_dim is a
// multiple of 4, at most 16384; out_dtype is bf16 or f16.
#pragma once

#include <cuda_runtime.h>

#include "kernels/layernorm.h"

namespace ringserve::cuda {

[[nodiscard]] cudaError_t LaunchLayerNorm(const LayerNormArgs& args, cudaStream_t stream);

}  // namespace ringserve::cuda
