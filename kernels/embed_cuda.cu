#include "kernels/cuda_util.cuh"
#include "kernels/embed_cuda.h"
#include "kernels/launch_cuda.h"

namespace ringserve::cuda {
namespace {

// Eight elements a thread.
constexpr int32_t kThreads = 128;
constexpr int32_t kEach = 8;

template <typename T>
__device__ __forceinline__ void Widen(const T* from, float (&to)[kEach]) {
  const uint4 words = *reinterpret_cast<const uint4*>(from);
  const auto* values = reinterpret_cast<const T*>(&words);
#pragma unroll
  for (int32_t i = 0; i < kEach; ++i) {
    to[i] = static_cast<float>(values[i]);
  }
}

template <>
__device__ __forceinline__ void Widen<float>(const float* from, float (&to)[kEach]) {
  *reinterpret_cast<float4*>(to) = reinterpret_cast<const float4*>(from)[0];
  *reinterpret_cast<float4*>(to + 4) = reinterpret_cast<const float4*>(from)[1];
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    EmbedKernel(const EmbedArgs args, const int32_t* feedback) {
  WaitForPreviousKernel();
  AllowNextKernel();  // after the wait: what follows may rely on all that came before this kernel
  const int64_t row = blockIdx.x;
  const auto i = static_cast<int32_t>((blockIdx.y * kThreads + threadIdx.x) * kEach);
  if (i >= args.hidden_dim) {
    return;
  }
  int32_t token_id = args.token_ids[row];
  if (token_id < 0) {
    token_id = feedback[~token_id];
  }
  alignas(16) float values[kEach];
  // An id that a failed step left behind must not become a wild read.
  if (token_id >= 0 && token_id < args.vocab_size) {
    Widen(reinterpret_cast<const T*>(args.table) + int64_t{token_id} * args.hidden_dim + i, values);
  } else {
#pragma unroll
    for (float& value : values) {
      value = __uint_as_float(0x7fc00000U);
    }
  }
  auto* out = reinterpret_cast<float4*>(args.out + row * args.hidden_dim + i);
  if (args.scale != 1.0F || args.accumulate) {
    alignas(16) float before[kEach] = {};
    if (args.accumulate) {
      *reinterpret_cast<float4*>(before) = out[0];
      *reinterpret_cast<float4*>(before + 4) = out[1];
    }
#pragma unroll
    for (int32_t j = 0; j < kEach; ++j) {
      values[j] = __fadd_rn(before[j], __fmul_rn(values[j], args.scale));
    }
  }
  out[0] = *reinterpret_cast<float4*>(values);
  out[1] = *reinterpret_cast<float4*>(values + 4);
}

}  // namespace

cudaError_t LaunchEmbed(const EmbedArgs& args, const int32_t* feedback, cudaStream_t stream) {
  if (args.hidden_dim < kEach || args.hidden_dim % kEach != 0) {
    return cudaErrorInvalidValue;
  }
  if (args.num_rows == 0) {
    return cudaSuccess;
  }
  const dim3 grid(static_cast<unsigned>(args.num_rows),
                  static_cast<unsigned>(CeilDiv(args.hidden_dim, kThreads * kEach)));
  const auto launch = [&](auto kernel) {
    return LaunchOverlapping(kernel, grid, kThreads, 0, stream, args, feedback);
  };
  switch (args.table_dtype) {
    case DType::kBf16:
      return launch(EmbedKernel<__nv_bfloat16>);
    case DType::kF16:
      return launch(EmbedKernel<__half>);
    case DType::kF32:
      return launch(EmbedKernel<float>);
  }
  return cudaErrorInvalidValue;
}

}  // namespace ringserve::cuda
