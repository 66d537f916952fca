#include <type_traits>

#include "kernels/cuda_util.cuh"
#include "kernels/launch_cuda.h"
#include "kernels/rmsnorm_cuda.cuh"
#include "kernels/rmsnorm_cuda.h"

namespace ringserve::cuda {
namespace {

// One block a row: a step of one row waits for two trips to memory and one barrier, whatever is
// done. The number of threads, and with it the order of the sum, depends on hidden_dim alone.
constexpr int32_t kMaxThreads = kMaxNormThreads;
constexpr int32_t kMaxQuads = 4;  // of four elements, a thread

// kQuads: four-element groups of a row that a thread holds in registers.

// What a deferred norm makes of a row.
template <typename T, int32_t kQuads>
__device__ __forceinline__ void Defer(const RmsNormArgs& args,
                                      const float4 (&value)[kQuads],
                                      const float4 (&by)[kQuads]) {
  __shared__ alignas(16) float squares[4 * kQuads * kMaxThreads / kSquaresColumns];
  const int32_t quads = args.hidden_dim / 4;
  const auto first = static_cast<int32_t>(threadIdx.x);
#pragma unroll
  for (int32_t i = 0; i < kQuads; ++i) {
    const int32_t quad = first + i * static_cast<int32_t>(blockDim.x);
    const float sum = SquaresOfFourLanes(value[i]);
    if (quad < quads) {
      squares[quad / 4] = sum;
      static_cast<uint2*>(args.out)[int64_t{blockIdx.x} * quads + quad] =
          Weighted<T>(value[i], by[i]);
    }
  }
  __syncthreads();
  if (first < 32) {
    const auto load = [&](int32_t /*row*/, int32_t i) {
      return reinterpret_cast<const float4*>(squares)[i];
    };
    float sum[1];
    SumSquares(args.hidden_dim, load, sum);
    if (first == 0) {
      args.scales[blockIdx.x] = NormScale(sum[0], args.hidden_dim, args.eps);
    }
  }
}

template <typename T, int32_t kQuads>
__global__ void __launch_bounds__(kMaxThreads) RmsNormKernel(const RmsNormArgs args) {
  __shared__ float partial[kMaxThreads / 32];
  AllowNextKernel();
  const int32_t quads = args.hidden_dim / 4;
  const auto first = static_cast<int32_t>(threadIdx.x);
  const auto step = static_cast<int32_t>(blockDim.x);
  const int64_t offset = int64_t{blockIdx.x} * quads;
  const auto* weight = reinterpret_cast<const float4*>(args.weight);
  auto* x = reinterpret_cast<float4*>(args.x) + offset;
  float4 by[kQuads];
  float4 value[kQuads];
#pragma unroll
  for (int32_t i = 0; i < kQuads; ++i) {
    const int32_t quad = first + i * step;
    by[i] = quad < quads ? __ldg(weight + quad) : float4{};
  }
  WaitForPreviousKernel();
#pragma unroll
  for (int32_t i = 0; i < kQuads; ++i) {
    const int32_t quad = first + i * step;
    value[i] = quad < quads ? x[quad] : float4{};
  }
  if (args.residual_in != nullptr) {
    const auto* residual = reinterpret_cast<const float4*>(args.residual_in) + offset;
#pragma unroll
    for (int32_t i = 0; i < kQuads; ++i) {
      const int32_t quad = first + i * step;
      if (quad < quads) {
        value[i] = Plus(value[i], residual[quad]);
        x[quad] = value[i];
      }
    }
  }
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    if (args.scales != nullptr) {
      Defer<T>(args, value, by);
      return;
    }
  }
  float sum = 0;
#pragma unroll
  for (int32_t i = 0; i < kQuads; ++i) {
    sum = AddSquares(value[i], sum);
  }
  const float scale = NormScale(SumOfBlock(sum, partial), args.hidden_dim, args.eps);
#pragma unroll
  for (int32_t i = 0; i < kQuads; ++i) {
    const int32_t quad = first + i * step;
    if (quad < quads) {
      if constexpr (std::is_same_v<T, float>) {
        static_cast<float4*>(args.out)[offset + quad] = {value[i].x * scale * by[i].x,
                                                         value[i].y * scale * by[i].y,
                                                         value[i].z * scale * by[i].z,
                                                         value[i].w * scale * by[i].w};
      } else {
        static_cast<uint2*>(args.out)[offset + quad] = Normed<T>(value[i], scale, by[i]);
      }
    }
  }
}

template <typename T>
cudaError_t LaunchType(const RmsNormArgs& args, cudaStream_t stream) {
  const int32_t quads = args.hidden_dim / 4;
  const auto launch = [&](auto kernel, int32_t quads_each) {
    return LaunchOverlapping(kernel,
                             dim3(static_cast<unsigned>(args.num_rows)),
                             NormThreads(args.hidden_dim, quads_each),
                             0,
                             stream,
                             args);
  };
  if (quads <= kMaxThreads) {
    return launch(RmsNormKernel<T, 1>, 1);
  }
  if (quads <= 2 * kMaxThreads) {
    return launch(RmsNormKernel<T, 2>, 2);
  }
  return launch(RmsNormKernel<T, kMaxQuads>, kMaxQuads);
}

}  // namespace

cudaError_t LaunchRmsNorm(const RmsNormArgs& args, cudaStream_t stream) {
  if (args.hidden_dim < 4 || args.hidden_dim % 4 != 0 ||
      args.hidden_dim > 4 * kMaxQuads * kMaxThreads ||
      (args.scales != nullptr && !CanDeferRmsNorm(args.hidden_dim, args.out_dtype))) {
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
