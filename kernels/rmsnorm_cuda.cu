#include "kernels/cuda_util.cuh"
#include "kernels/rmsnorm_cuda.h"

namespace ringserve::cuda {
namespace {

constexpr int32_t kThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kThreads) RmsNormKernel(const RmsNormArgs args) {
  __shared__ float partial[kThreads / 32];
  const int64_t row = blockIdx.x;
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t quads = args.hidden_dim / 4;
  auto* x = reinterpret_cast<float4*>(args.x) + row * quads;
  const auto* residual = reinterpret_cast<const float4*>(args.residual_in);
  float sum = 0;
  for (int32_t i = thread; i < quads; i += kThreads) {
    float4 value = x[i];
    if (residual != nullptr) {
      const float4 more = residual[row * quads + i];
      value = {value.x + more.x, value.y + more.y, value.z + more.z, value.w + more.w};
      x[i] = value;
    }
    sum = __fmaf_rn(value.x, value.x, sum);
    sum = __fmaf_rn(value.y, value.y, sum);
    sum = __fmaf_rn(value.z, value.z, sum);
    sum = __fmaf_rn(value.w, value.w, sum);
  }
  for (int32_t distance = 16; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(0xffffffffU, sum, distance);
  }
  if (thread % 32 == 0) {
    partial[thread / 32] = sum;
  }
  __syncthreads();
  float total = 0;
  for (int32_t i = 0; i < kThreads / 32; ++i) {
    total += partial[i];
  }
  const double mean = static_cast<double>(total) / args.hidden_dim;
  const auto scale = static_cast<float>(1 / sqrt(mean + static_cast<double>(args.eps)));
  auto* out = static_cast<uint2*>(args.out) + row * quads;
  const auto* weight = reinterpret_cast<const float4*>(args.weight);
  for (int32_t i = thread; i < quads; i += kThreads) {
    const float4 value = x[i];
    const float4 by = weight[i];
    out[i] = {Pack<T>(value.x * scale * by.x, value.y * scale * by.y),
              Pack<T>(value.z * scale * by.z, value.w * scale * by.w)};
  }
}

}  // namespace

cudaError_t LaunchRmsNorm(const RmsNormArgs& args, cudaStream_t stream) {
  if (args.hidden_dim < 4 || args.hidden_dim % 4 != 0 || args.out_dtype == DType::kF32) {
    return cudaErrorInvalidValue;
  }
  if (args.num_rows == 0) {
    return cudaSuccess;
  }
  const dim3 grid(static_cast<unsigned>(args.num_rows));
  if (args.out_dtype == DType::kBf16) {
    RmsNormKernel<__nv_bfloat16><<<grid, kThreads, 0, stream>>>(args);
  } else {
    RmsNormKernel<__half><<<grid, kThreads, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

}  // namespace ringserve::cuda
