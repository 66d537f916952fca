#include "kernels/matmul_launch_cuda.cuh"

namespace ringserve::cuda::matmul {

RINGSERVE_INSTANTIATE_ALL(__nv_bfloat16, 32, 2);
RINGSERVE_INSTANTIATE_ALL(__nv_bfloat16, 64, 2);
RINGSERVE_INSTANTIATE_ALL(__nv_bfloat16, 96, 2);
RINGSERVE_INSTANTIATE_ALL(__nv_bfloat16, 128, 2);
RINGSERVE_INSTANTIATE_ALL(__nv_bfloat16, 192, 2);
RINGSERVE_INSTANTIATE_ALL(__nv_bfloat16, 224, 2);
RINGSERVE_INSTANTIATE_ALL(__nv_bfloat16, 256, 2);

}  // namespace ringserve::cuda::matmul
