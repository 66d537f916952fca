// embed.h on a CUDA device. All pointers are device memory, 16-byte aligned; hidden_dim is a
// multiple of 8.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "kernels/embed.h"

namespace ringserve::cuda {

// A token id below 0 stands for feedback[~id], the id that an earlier step sampled there and the
// host may not know yet. `feedback` may be null if there are none such.
[[nodiscard]] cudaError_t LaunchEmbed(const EmbedArgs& args,
                                      const int32_t* feedback,
                                      cudaStream_t stream);

}  // namespace ringserve::cuda
