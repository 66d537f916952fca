// rmsnorm.h on a CUDA device. All pointers are device memory, 16-byte aligned; hidden_dim is a
// multiple of 4, at most 16384; any out_dtype, out may be x. The sum of squares is taken in one
// order whatever num_rows is.
#pragma once

#include <cuda_runtime.h>

#include "kernels/rmsnorm.h"

namespace ringserve::cuda {

[[nodiscard]] cudaError_t LaunchRmsNorm(const RmsNormArgs& args, cudaStream_t stream);

}  // namespace ringserve::cuda
