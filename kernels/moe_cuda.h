// moe.h on a CUDA device: which expert has which rows is known to the device alone, so that a step
// waits for no answer. The products run over the rows of all experts at once, each row in the order
// along k that a product of its own would take.
//
// All pointers but `experts` are device memory, 16-byte aligned. The experts lie one behind the
// other at one distance. hidden_dim and ffn_dim are multiples of 8; dtype is bf16 or f16.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

#include "kernels/moe.h"

namespace ringserve::cuda {

// Device bytes for the choices of a step, beside the workspace.
int64_t RoutesBytes(int64_t max_rows, int32_t experts_per_token, int32_t num_experts);

// Null if every requirement holds, else a static sentence that names the first broken one.
[[nodiscard]] const char* CheckExpertsCudaArgs(const ExpertsArgs& args);

// routes: RoutesBytes, 16-byte aligned.
[[nodiscard]] cudaError_t LaunchExperts(const ExpertsArgs& args,
                                        std::byte* routes,
                                        cudaStream_t stream);

}  // namespace ringserve::cuda
