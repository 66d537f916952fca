#include "kernels/matmul_launch_cuda.cuh"

namespace ringserve::cuda::matmul {

#define RINGSERVE_INSTANTIATE_ROWS(T, BLOCKS)                                                  \
  template cudaError_t LaunchRows<T, BLOCKS, false>(const HopperLaunch& launch, cudaStream_t); \
  template cudaError_t LaunchRows<T, BLOCKS, true>(const HopperLaunch& launch, cudaStream_t)

RINGSERVE_INSTANTIATE_ROWS(__nv_bfloat16, 1);
RINGSERVE_INSTANTIATE_ROWS(__nv_bfloat16, 2);
RINGSERVE_INSTANTIATE_ROWS(__nv_bfloat16, 4);
RINGSERVE_INSTANTIATE_ROWS(__half, 1);
RINGSERVE_INSTANTIATE_ROWS(__half, 2);
RINGSERVE_INSTANTIATE_ROWS(__half, 4);

}  // namespace ringserve::cuda::matmul
