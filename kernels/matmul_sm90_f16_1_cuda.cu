#include "kernels/matmul_launch_cuda.cuh"

namespace ringserve::cuda::matmul {

RINGSERVE_INSTANTIATE_ALL(__half, 32, 1);
RINGSERVE_INSTANTIATE_ALL(__half, 64, 1);
RINGSERVE_INSTANTIATE_ALL(__half, 128, 1);
RINGSERVE_INSTANTIATE_ALL(__half, 256, 1);

}  // namespace ringserve::cuda::matmul
