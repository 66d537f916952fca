#include "kernels/matmul_launch_cuda.cuh"

namespace ringserve::cuda::matmul {

RINGSERVE_INSTANTIATE_ALL(__half, 32, 2);
RINGSERVE_INSTANTIATE_ALL(__half, 64, 2);
RINGSERVE_INSTANTIATE_ALL(__half, 96, 2);
RINGSERVE_INSTANTIATE_ALL(__half, 128, 2);
RINGSERVE_INSTANTIATE_ALL(__half, 192, 2);
RINGSERVE_INSTANTIATE_ALL(__half, 224, 2);
RINGSERVE_INSTANTIATE_ALL(__half, 256, 2);

}  // namespace ringserve::cuda::matmul
