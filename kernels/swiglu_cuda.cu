#include "kernels/cuda_util.cuh"
#include "kernels/swiglu_cuda.h"

namespace ringserve::cuda {
namespace {

constexpr int32_t kThreads = 256;

// gate * sigmoid(gate) * up, through e^-|gate|, which cannot overflow.
__device__ __forceinline__ float Activate(float gate, float up) {
  const float e = expf(-fabsf(gate));
  const float above = gate < 0 ? e : 1.0F;
  return gate * (above / (1.0F + e)) * up;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) SwiGluKernel(const SwiGluArgs args) {
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
      Pack<T>(Activate(gate.x, up.x), Activate(gate.y, up.y)),
      Pack<T>(Activate(gate.z, up.z), Activate(gate.w, up.w))};
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
    SwiGluKernel<__nv_bfloat16><<<grid, kThreads, 0, stream>>>(args);
  } else {
    SwiGluKernel<__half><<<grid, kThreads, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

}  // namespace ringserve::cuda
