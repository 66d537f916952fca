// activation.h on a CUDA device. All pointers are device memory; out_dtype is bf16 or f16.
#pragma once

#include <cuda_runtime.h>

#include "kernels/activation.h"

namespace ringserve::cuda {

[[nodiscard]] cudaError_t LaunchActivation(const ActivationArgs& args, cudaStream_t stream);

}  // namespace ringserve::cuda
