// rope.h on a CUDA device. All pointers are device memory, 16-byte aligned; head_dim is a multiple
// of 8; q_dtype and the pool's are both bf16 or both f16.
#pragma once

#include <cuda_runtime.h>

#include "kernels/rope.h"

namespace ringserve::cuda {

[[nodiscard]] cudaError_t LaunchRopeAngles(const RopeAnglesArgs& args, cudaStream_t stream);
[[nodiscard]] cudaError_t LaunchRopeAppend(const RopeAppendArgs& args, cudaStream_t stream);

}  // namespace ringserve::cuda
