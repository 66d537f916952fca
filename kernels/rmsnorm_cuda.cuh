// The arithmetic of norms: of an RMSNorm's own kernel and the chain of a step's ops, which give
// equal bits, and in part of a LayerNorm's. Thread t of NormThreads holds the four-element groups
// t, t + NormThreads, ...; squares are summed within a thread, then over warps, then over the
// warps' sums.
#pragma once

#include <cstdint>

#include "kernels/cuda_util.cuh"
#include "kernels/types.h"

namespace ringserve::cuda {

inline constexpr int32_t kMaxNormThreads = 1024;

// `quads_each`: groups a thread holds. The order of the sum depends on hidden_dim alone.
__host__ __device__ constexpr int32_t NormThreads(int32_t hidden_dim, int32_t quads_each) {
  return RoundUp(CeilDiv(hidden_dim / 4, quads_each), 32);
}

__device__ __forceinline__ float4 Plus(float4 a, float4 b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}

// Every lane gets it.
__device__ __forceinline__ float SumOfWarp(float sum) {
#pragma unroll
  for (int32_t distance = 16; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(0xffffffffU, sum, distance);
  }
  return sum;
}

// The sum over the block, in one order; every thread gets it. partial: 32 floats of shared memory,
// of this call alone.
__device__ __forceinline__ float SumOfBlock(float sum, float* partial) {
  sum = SumOfWarp(sum);
  const auto warps = static_cast<int32_t>(blockDim.x) / 32;
  const auto lane = static_cast<int32_t>(threadIdx.x) % 32;
  if (lane == 0) {
    partial[threadIdx.x / 32] = sum;
  }
  __syncthreads();
  return SumOfWarp(lane < warps ? partial[lane] : 0.0F);
}

__device__ __forceinline__ float AddSquares(float4 value, float sum) {
  sum = __fmaf_rn(value.x, value.x, sum);
  sum = __fmaf_rn(value.y, value.y, sum);
  sum = __fmaf_rn(value.z, value.z, sum);
  return __fmaf_rn(value.w, value.w, sum);
}

__device__ __forceinline__ float NormScale(float sum, int32_t hidden_dim, float eps) {
  return __frsqrt_rn(__fadd_rn(__fdiv_rn(sum, static_cast<float>(hidden_dim)), eps));
}

template <typename T>
__device__ __forceinline__ uint2 Normed(float4 value, float scale, float4 by) {
  return {Pack<T>(value.x * scale * by.x, value.y * scale * by.y),
          Pack<T>(value.z * scale * by.z, value.w * scale * by.w)};
}

}  // namespace ringserve::cuda
