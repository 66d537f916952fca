// softcap.h on a CUDA device. All pointers are device memory.
#pragma once

#include <cuda_runtime.h>

#include "kernels/softcap.h"

namespace ringserve::cuda {

[[nodiscard]] cudaError_t LaunchSoftcap(const SoftcapArgs& args, cudaStream_t stream);

}  // namespace ringserve::cuda
