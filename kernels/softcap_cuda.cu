#include "kernels/cuda_util.cuh"
#include "kernels/launch_cuda.h"
#include "kernels/softcap_cuda.h"
#include "kernels/types.h"

namespace ringserve::cuda {
namespace {

constexpr int32_t kThreads = 256;

__global__ void __launch_bounds__(kThreads) SoftcapKernel(const SoftcapArgs args) {
  AllowNextKernel();
  WaitForPreviousKernel();
  const auto column = static_cast<int32_t>(blockIdx.y * kThreads + threadIdx.x);
  if (column < args.size) {
    float* x = args.x + int64_t{blockIdx.x} * args.size + column;
    *x = __fmul_rn(tanhf(__fdiv_rn(*x, args.softcap)), args.softcap);
  }
}

}  // namespace

cudaError_t LaunchSoftcap(const SoftcapArgs& args, cudaStream_t stream) {
  if (args.size < 1 || args.num_rows < 0 || !(args.softcap > 0)) {
    return cudaErrorInvalidValue;
  }
  if (args.num_rows == 0) {
    return cudaSuccess;
  }
  const dim3 grid(static_cast<unsigned>(args.num_rows),
                  static_cast<unsigned>(CeilDiv(args.size, kThreads)));
  return LaunchOverlapping(SoftcapKernel, grid, kThreads, 0, stream, args);
}

}  // namespace ringserve::cuda
