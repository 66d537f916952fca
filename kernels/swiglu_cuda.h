// swiglu.h on a CUDA device. All pointers are device memory, 16-byte aligned; ffn_dim is a multiple
// of 4; out_dtype bf16 or f16.
#pragma once

#include <cuda_runtime.h>

#include "kernels/swiglu.h"

namespace ringserve::cuda {

[[nodiscard]] cudaError_t LaunchSwiGlu(const SwiGluArgs& args, cudaStream_t stream);

}  // namespace ringserve::cuda
