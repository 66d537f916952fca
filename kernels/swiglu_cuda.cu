#include "kernels/cuda_util.cuh"
#include "kernels/launch_cuda.h"
#include "kernels/swiglu_cuda.cuh"
#include "kernels/swiglu_cuda.h"

namespace ringserve::cuda {
namespace {

constexpr int32_t kThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kThreads) SwiGluKernel(const SwiGluArgs args) {
  AllowNextKernel();
  WaitForPreviousKernel();
  const int64_t row = blockIdx.y;
  const int32_t quads = args.ffn_dim / 4;
  const auto i = static_cast<int32_t>(blockIdx.x * kThreads + threadIdx.x);
  if (i >= quads) {
    return;
  }
  const auto* gates = reinterpret_cast<const float4*>(args.gate_up) + row * 2 * quads;
  const float4 gate = gates[i];
  const float4 up = gates[quads + i];
  static_cast<uint2*>(args.out)[row * quads + i] = {
      Pack<T>(GatedProduct(gate.x, up.x), GatedProduct(gate.y, up.y)),
      Pack<T>(GatedProduct(gate.z, up.z), GatedProduct(gate.w, up.w))};
}

}  // namespace

cudaError_t LaunchSwiGlu(const SwiGluArgs& args, cudaStream_t stream) {
  if (args.ffn_dim < 4 || args.ffn_dim % 4 != 0 || args.out_dtype == DType::kF32 ||
      args.num_rows > 65535) {
    return cudaErrorInvalidValue;
  }
  if (args.num_rows == 0) {
    return cudaSuccess;
  }
  const dim3 grid(static_cast<unsigned>(CeilDiv(args.ffn_dim / 4, kThreads)),
                  static_cast<unsigned>(args.num_rows));
  if (args.out_dtype == DType::kBf16) {
    return LaunchOverlapping(SwiGluKernel<__nv_bfloat16>, grid, kThreads, 0, stream, args);
  }
  return LaunchOverlapping(SwiGluKernel<__half>, grid, kThreads, 0, stream, args);
}

}  // namespace ringserve::cuda
