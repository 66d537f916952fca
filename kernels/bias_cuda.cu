#include "kernels/bias_cuda.h"
#include "kernels/cuda_util.cuh"
#include "kernels/launch_cuda.h"
#include "kernels/types.h"

namespace ringserve::cuda {
namespace {

constexpr int32_t kThreads = 256;

__global__ void __launch_bounds__(kThreads) BiasKernel(const BiasArgs args) {
  AllowNextKernel();
  const auto column = static_cast<int32_t>(blockIdx.y * kThreads + threadIdx.x);
  const bool inside = column < args.size;
  const float bias = inside ? __ldg(args.bias + column) : 0.0F;
  WaitForPreviousKernel();
  if (inside) {
    float* x = args.x + int64_t{blockIdx.x} * args.size + column;
    *x = __fadd_rn(*x, bias);
  }
}

}  // namespace

cudaError_t LaunchBias(const BiasArgs& args, cudaStream_t stream) {
  if (args.size < 1 || args.num_rows < 0) {
    return cudaErrorInvalidValue;
  }
  if (args.num_rows == 0) {
    return cudaSuccess;
  }
  const dim3 grid(static_cast<unsigned>(args.num_rows),
                  static_cast<unsigned>(CeilDiv(args.size, kThreads)));
  return LaunchOverlapping(BiasKernel, grid, kThreads, 0, stream, args);
}

}  // namespace ringserve::cuda
