// The norms of a chain: by one block for all, or by every block for itself.
#pragma once

#include "kernels/chain_roles_cuda.cuh"

namespace ringserve::cuda::chain {

inline constexpr int32_t kShares = kMaxNormThreads / (32 * kWarps);
inline constexpr int32_t kMaxQuads = kMaxNormDim / (4 * kMaxNormThreads);

// The groups of four columns of a row that a thread holds, which plays kShares of a norm's threads
// (rmsnorm_cuda.cuh): f(share, which of the share's, which of the row's).
template <int32_t kQuads, typename F>
__device__ __forceinline__ void EachQuad(int32_t hidden_dim, const F& f) {
  const int32_t threads = NormThreads(hidden_dim, kQuads);
#pragma unroll
  for (int32_t share = 0; share < kShares; ++share) {
    const int32_t played = static_cast<int32_t>(threadIdx.x) + share * 32 * kWarps;
#pragma unroll
    for (int32_t i = 0; i < kQuads; ++i) {
      const int32_t at = played + i * threads;
      if (played < threads && at < hidden_dim / 4) {
        f(share, i, at);
      }
    }
  }
}

// What a thread holds of a row.
template <int32_t kQuads>
using HeldRow = float4[kShares][kQuads];

// What the row's elements are multiplied with. `partial`: a float for each warp of a norm.
template <int32_t kQuads>
__device__ __forceinline__ float ScaleOfRow(const Op& op,
                                            const HeldRow<kQuads>& values,
                                            float* partial) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t lane = thread % 32;
#pragma unroll
  for (int32_t share = 0; share < kShares; ++share) {
    float sum = 0;
#pragma unroll
    for (int32_t i = 0; i < kQuads; ++i) {
      sum = AddSquares(values[share][i], sum);
    }
    sum = SumOfWarp(sum);
    if (lane == 0) {
      partial[thread / 32 + share * kWarps] = sum;
    }
  }
  NamedBarrier(kWorkersBarrier, 32 * kWarps);
  const int32_t warps = NormThreads(op.hidden_dim, kQuads) / 32;
  return NormScale(SumOfWarp(lane < warps ? partial[lane] : 0.0F), op.hidden_dim, op.eps);
}

// Loads of all shares before the first store, which might change what they read.
template <int32_t kQuads, typename F>
__device__ __forceinline__ void AddResidual(float4* x,
                                            const float4* residual,
                                            const F& quad,
                                            HeldRow<kQuads>& values) {
  HeldRow<kQuads> added;
#pragma unroll
  for (int32_t share = 0; share < kShares; ++share) {
#pragma unroll
    for (int32_t i = 0; i < kQuads; ++i) {
      added[share][i] = quad(share, i) >= 0 ? __ldcg(residual + quad(share, i)) : float4{};
    }
  }
#pragma unroll
  for (int32_t share = 0; share < kShares; ++share) {
#pragma unroll
    for (int32_t i = 0; i < kQuads; ++i) {
      values[share][i] = Plus(values[share][i], added[share][i]);
      if (quad(share, i) >= 0) {
        x[quad(share, i)] = values[share][i];
      }
    }
  }
}

// A row of a norm by all the warps that multiply; of a deferred one, with its sums of squares
// instead of its scale. rmsnorm_cuda.cuh says what the threads of a norm
// hold: here each plays kShares of them.
template <typename T, int32_t kQuads>
__device__ __forceinline__ void NormRow(const Op& op, int32_t row, float* partial, float* squares) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t quads = op.hidden_dim / 4;
  const int32_t threads = NormThreads(op.hidden_dim, kQuads);
  const int64_t offset = int64_t{row} * quads;
  auto* x = reinterpret_cast<float4*>(op.x) + offset;
  HeldRow<kQuads> values;
  // quad(share, i): of the row; -1 if there is none.
  const auto quad = [=](int32_t share, int32_t i) {
    const int32_t played = thread + share * 32 * kWarps;
    const int32_t at = played + i * threads;
    return played < threads && at < quads ? at : -1;
  };
#pragma unroll
  for (int32_t share = 0; share < kShares; ++share) {
#pragma unroll
    for (int32_t i = 0; i < kQuads; ++i) {
      values[share][i] = quad(share, i) >= 0 ? __ldcg(x + quad(share, i)) : float4{};
    }
  }
  if (op.residual != nullptr) {
    AddResidual(x, reinterpret_cast<const float4*>(op.residual) + offset, quad, values);
  }
  const auto* weight = reinterpret_cast<const float4*>(op.weight);
  auto* out = static_cast<uint2*>(op.out) + offset;
  if (op.defers) {
#pragma unroll
    for (int32_t share = 0; share < kShares; ++share) {
#pragma unroll
      for (int32_t i = 0; i < kQuads; ++i) {
        const float sum = SquaresOfFourLanes(values[share][i]);
        if (const int32_t at = quad(share, i); at >= 0) {
          squares[row * kSquaresStride + at / 4] = sum;
          out[at] = Weighted<T>(values[share][i], __ldg(weight + at));
        }
      }
    }
    return;
  }
  const float scale = ScaleOfRow<kQuads>(op, values, partial);
#pragma unroll
  for (int32_t share = 0; share < kShares; ++share) {
#pragma unroll
    for (int32_t i = 0; i < kQuads; ++i) {
      if (const int32_t at = quad(share, i); at >= 0) {
        out[at] = Normed<T>(values[share][i], scale, __ldg(weight + at));
      }
    }
  }
}

// The same row in every block. `begins`: x is not in the block yet. What must not wait for the op
// before is asked for ahead of `await`. What the norm made goes to `to`.
template <typename T, int32_t kQuads, typename Await>
__device__ __forceinline__ void NormOwnRow(const Op& op,
                                           HeldRow<kQuads>& own,
                                           uint2* to,
                                           bool begins,
                                           float* partial,
                                           const Await& await) {
  const auto each = [&](const auto& f) { EachQuad<kQuads>(op.hidden_dim, f); };
  HeldRow<kQuads> added = {};
  HeldRow<kQuads> by = {};
  const auto* weight = reinterpret_cast<const float4*>(op.weight);
  each([&](int32_t share, int32_t i, int32_t at) { by[share][i] = __ldg(weight + at); });
  await();
  const auto* x = reinterpret_cast<const float4*>(op.x);
  const auto* residual = reinterpret_cast<const float4*>(op.residual);
  if (begins) {
    each([&](int32_t share, int32_t i, int32_t at) { own[share][i] = __ldcg(x + at); });
  }
  if (residual != nullptr) {
    each([&](int32_t share, int32_t i, int32_t at) { added[share][i] = __ldcg(residual + at); });
    each([&](int32_t share, int32_t i, int32_t /*at*/) {
      own[share][i] = Plus(own[share][i], added[share][i]);
    });
  }
  const float scale = ScaleOfRow<kQuads>(op, own, partial);
  each([&](int32_t share, int32_t i, int32_t at) {
    const uint2 normed = Normed<T>(own[share][i], scale, by[share][i]);
    to[at] = normed;
    if (IsKeeper()) {
      static_cast<uint2*>(op.out)[at] = normed;
    }
  });
}

}  // namespace ringserve::cuda::chain
