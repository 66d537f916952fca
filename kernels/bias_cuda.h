// The bias of a matrix product (MatMulArgs::bias) on a CUDA device, after the product.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace ringserve::cuda {

// x[i, j] += bias[j]; x is [num_rows, size].
struct BiasArgs {
  float* x = nullptr;
  const float* bias = nullptr;
  int32_t num_rows = 0;
  int32_t size = 0;
};

[[nodiscard]] cudaError_t LaunchBias(const BiasArgs& args, cudaStream_t stream);

}  // namespace ringserve::cuda
