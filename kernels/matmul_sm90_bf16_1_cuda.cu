#include "kernels/matmul_launch_cuda.cuh"

namespace ringserve::cuda::matmul {

RINGSERVE_INSTANTIATE_ALL(__nv_bfloat16, 32, 1);
RINGSERVE_INSTANTIATE_ALL(__nv_bfloat16, 64, 1);
RINGSERVE_INSTANTIATE_ALL(__nv_bfloat16, 128, 1);
RINGSERVE_INSTANTIATE_ALL(__nv_bfloat16, 256, 1);

}  // namespace ringserve::cuda::matmul
