// The arithmetic of norms: of an RMSNorm's own kernel and the chain of a step's ops, which give
// equal bits, and in part of a LayerNorm's. Thread t of NormThreads holds the four-element groups
// t, t + NormThreads, ...; squares are summed within a thread, then over warps, then over the
// warps' sums.
//
// A deferred norm's squares are summed over 16 columns, as a product's warp holds them where it
// makes them: of each of the first eight columns and the one eight behind it, then over
// neighbours, pairs and fours of these. A row's sums are summed four by four, these by a warp.
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

// Columns whose squares a deferred norm sums first.
inline constexpr int32_t kSquaresColumns = 16;

__device__ __forceinline__ float SquareOfTwo(float value, float eight_behind) {
  return __fmaf_rn(eight_behind, eight_behind, __fmul_rn(value, value));
}

// Lanes hold groups of four columns that follow each other, from a multiple of 16 columns on; the
// four lanes of 16 columns get their sum.
__device__ __forceinline__ float SquaresOfFourLanes(float4 value) {
  const auto other = [](float mine) { return __shfl_xor_sync(0xffffffffU, mine, 2); };
  const float4 of_other = {other(value.x), other(value.y), other(value.z), other(value.w)};
  const bool is_behind = threadIdx.x % 4 >= 2;
  const float4 first = is_behind ? of_other : value;
  const float4 behind = is_behind ? value : of_other;
  float sum = (SquareOfTwo(first.x, behind.x) + SquareOfTwo(first.y, behind.y)) +
              (SquareOfTwo(first.z, behind.z) + SquareOfTwo(first.w, behind.w));
  sum += __shfl_xor_sync(0xffffffffU, sum, 1);
  return sum;
}

// Of each row, by a warp: every lane gets it. load(row, i): the sums of 16 columns 4i to 4i + 3.
template <int32_t kRows, typename Load>
__device__ __forceinline__ void SumSquares(int32_t hidden_dim,
                                           const Load& load,
                                           float (&sums)[kRows]) {
  const int32_t groups = hidden_dim / (4 * kSquaresColumns);
#pragma unroll
  for (int32_t row = 0; row < kRows; ++row) {
    sums[row] = 0;
  }
#pragma unroll 2
  for (auto i = static_cast<int32_t>(threadIdx.x % 32); i < groups; i += 32) {
#pragma unroll
    for (int32_t row = 0; row < kRows; ++row) {
      const float4 of = load(row, i);
      sums[row] += (of.x + of.y) + (of.z + of.w);
    }
  }
#pragma unroll
  for (int32_t row = 0; row < kRows; ++row) {
    sums[row] = SumOfWarp(sums[row]);
  }
}

template <typename T>
__device__ __forceinline__ uint2 Weighted(float4 value, float4 by) {
  return {Pack<T>(value.x * by.x, value.y * by.y), Pack<T>(value.z * by.z, value.w * by.w)};
}

template <typename T>
__device__ __forceinline__ uint2 Normed(float4 value, float scale, float4 by) {
  return {Pack<T>(value.x * scale * by.x, value.y * scale * by.y),
          Pack<T>(value.z * scale * by.z, value.w * scale * by.w)};
}

}  // namespace ringserve::cuda
