#include <algorithm>

#include "kernels/fetch_cuda.h"
#include "kernels/types.h"

namespace ringserve::cuda {
namespace {

constexpr int32_t kThreads = 256;
constexpr int32_t kMaxBlocks = 64;  // enough requests in flight for the bus

__global__ void __launch_bounds__(kThreads)
    FetchKernel(uint4* to, const uint4* from, int64_t count) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += stride) {
    to[i] = from[i];
  }
}

}  // namespace

cudaError_t LaunchFetch(std::byte* to, const std::byte* from, int64_t bytes, cudaStream_t stream) {
  if (bytes < 0 || bytes % 16 != 0) {
    return cudaErrorInvalidValue;
  }
  if (bytes == 0) {
    return cudaSuccess;
  }
  const auto blocks = std::min<int64_t>(CeilDiv<int64_t>(bytes / 16, kThreads), kMaxBlocks);
  FetchKernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(
      reinterpret_cast<uint4*>(to), reinterpret_cast<const uint4*>(from), bytes / 16);
  return cudaGetLastError();
}

}  // namespace ringserve::cuda
