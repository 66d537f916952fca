#include <type_traits>

#include "kernels/cuda_util.cuh"
#include "kernels/launch_cuda.h"
#include "kernels/layernorm_cuda.h"
#include "kernels/rmsnorm_cuda.cuh"

namespace ringserve::cuda {
namespace {

// One block a row. The number of threads, and with it the order of the sums, depends on hidden_dim
// alone.
constexpr int32_t kMaxThreads = kMaxNormThreads;
constexpr int32_t kMaxQuads = 4;  // of four elements, a thread

// kQuads: four-element groups of a row that a thread holds in registers. The mean first, then the
// squares of what is left.
template <typename T, int32_t kQuads>
__global__ void __launch_bounds__(kMaxThreads) LayerNormKernel(const LayerNormArgs args) {
  __shared__ float sums[kMaxThreads / 32];
  __shared__ float squares[kMaxThreads / 32];
  AllowNextKernel();
  WaitForPreviousKernel();
  const int32_t quads = args.hidden_dim / 4;
  const auto first = static_cast<int32_t>(threadIdx.x);
  const auto step = static_cast<int32_t>(blockDim.x);
  const int64_t offset = int64_t{blockIdx.x} * quads;
  auto* x = reinterpret_cast<float4*>(args.x) + offset;
  const auto* residual = reinterpret_cast<const float4*>(args.residual_in);
  float4 value[kQuads];
  float sum = 0;
#pragma unroll
  for (int32_t i = 0; i < kQuads; ++i) {
    const int32_t quad = first + i * step;
    value[i] = quad < quads ? x[quad] : float4{};
    if (residual != nullptr && quad < quads) {
      value[i] = Plus(value[i], residual[offset + quad]);
      x[quad] = value[i];
    }
    sum += (value[i].x + value[i].y) + (value[i].z + value[i].w);
  }
  const auto count = static_cast<float>(args.hidden_dim);
  const float mean = __fdiv_rn(SumOfBlock(sum, sums), count);
  float square = 0;
#pragma unroll
  for (int32_t i = 0; i < kQuads; ++i) {
    if (first + i * step < quads) {
      value[i] = {value[i].x - mean, value[i].y - mean, value[i].z - mean, value[i].w - mean};
      square = __fmaf_rn(value[i].x, value[i].x, square);
      square = __fmaf_rn(value[i].y, value[i].y, square);
      square = __fmaf_rn(value[i].z, value[i].z, square);
      square = __fmaf_rn(value[i].w, value[i].w, square);
    }
  }
  const float scale = NormScale(SumOfBlock(square, squares), args.hidden_dim, args.eps);
  const auto* weight = reinterpret_cast<const float4*>(args.weight);
  const auto* bias = reinterpret_cast<const float4*>(args.bias);
#pragma unroll
  for (int32_t i = 0; i < kQuads; ++i) {
    const int32_t quad = first + i * step;
    if (quad < quads) {
      const float4 by = __ldg(weight + quad);
      const float4 plus = __ldg(bias + quad);
      const float4 normed = {__fmaf_rn(value[i].x * scale, by.x, plus.x),
                             __fmaf_rn(value[i].y * scale, by.y, plus.y),
                             __fmaf_rn(value[i].z * scale, by.z, plus.z),
                             __fmaf_rn(value[i].w * scale, by.w, plus.w)};
      if constexpr (std::is_same_v<T, float>) {
        static_cast<float4*>(args.out)[offset + quad] = normed;
      } else {
        static_cast<uint2*>(args.out)[offset + quad] = {Pack<T>(normed.x, normed.y),
                                                        Pack<T>(normed.z, normed.w)};
      }
    }
  }
}

template <typename T>
cudaError_t LaunchType(const LayerNormArgs& args, cudaStream_t stream) {
  const int32_t quads = args.hidden_dim / 4;
  const auto launch = [&](auto kernel, int32_t quads_each) {
    return LaunchOverlapping(kernel,
                             dim3(static_cast<unsigned>(args.num_rows)),
                             NormThreads(args.hidden_dim, quads_each),
                             0,
                             stream,
                             args);
  };
  return quads <= kMaxThreads ? launch(LayerNormKernel<T, 1>, 1)
                              : launch(LayerNormKernel<T, kMaxQuads>, kMaxQuads);
}

}  // namespace

cudaError_t LaunchLayerNorm(const LayerNormArgs& args, cudaStream_t stream) {
  if (args.hidden_dim < 4 || args.hidden_dim % 4 != 0 ||
      args.hidden_dim > 4 * kMaxQuads * kMaxThreads || args.weight == nullptr ||
      args.bias == nullptr) {
    return cudaErrorInvalidValue;
  }
  if (args.num_rows == 0) {
    return cudaSuccess;
  }
  switch (args.out_dtype) {
    case DType::kBf16:
      return LaunchType<__nv_bfloat16>(args, stream);
    case DType::kF16:
      return LaunchType<__half>(args, stream);
    case DType::kF32:
      return LaunchType<float>(args, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace ringserve::cuda
