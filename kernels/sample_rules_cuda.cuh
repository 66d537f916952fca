// The rules of sampler.cc and select.h on the device: noise, ranks and reductions of a block of
// 1024 threads, each in one fixed order.
#pragma once

#include <cstdint>

#include "kernels/sample_cuda.h"

namespace ringserve::cuda::sample {

inline constexpr int32_t kThreads = 1024;
inline constexpr int32_t kWarps = kThreads / 32;

// The first kernel reads each row once, in pieces, over the whole device.
inline constexpr int32_t kScanThreads = 256;
inline constexpr int32_t kScanEach = 16;
inline constexpr int32_t kPiece = kScanThreads * kScanEach;
// The second ranks the tokens that can matter in shared memory, if there are no more than this.
inline constexpr int32_t kMaxRanked = 4096;
// Where a nucleus is looked for first.
inline constexpr int32_t kNucleusGuess = 256;
inline constexpr float kMinusInfinity = -__builtin_huge_valf();

// The finalizer of SplitMix64 and the noise of sampler.cc.
inline constexpr uint64_t kGoldenGamma = 0x9e3779b97f4a7c15U;

__device__ __forceinline__ uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

__device__ __forceinline__ uint64_t NoiseKey(uint64_t seed, int64_t position) {
  return Mix(Mix(seed + kGoldenGamma) + static_cast<uint64_t>(position) * kGoldenGamma);
}

__device__ __forceinline__ uint64_t NoiseBits(uint64_t key, int32_t token_id) {
  return Mix(key + (static_cast<uint64_t>(token_id) + 1) * kGoldenGamma);
}

__device__ __forceinline__ double Gumbel(uint64_t bits) {
  const double uniform = (static_cast<double>(bits >> 11) + 0.5) * 0x1p-53;
  return -log(-log1p(-uniform));
}

// Gumbel(bits) is not larger.
__device__ __forceinline__ double GumbelBound(uint64_t bits) {
  return (__clzll(static_cast<int64_t>(bits | 1U)) + 1) * 0.6931471805599453 + 1e-9;
}

// Larger keys rank higher: by logit, ties by lower id (select.h).
__device__ __forceinline__ uint64_t RankKey(float logit, int32_t token_id) {
  const uint32_t bits = __float_as_uint(logit + 0.0F);
  const uint32_t ordered = (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
  return (uint64_t{ordered} << 32) | (0xffffffffU - static_cast<uint32_t>(token_id));
}

__device__ __forceinline__ int32_t TokenOf(uint64_t key) {
  return static_cast<int32_t>(0xffffffffU - static_cast<uint32_t>(key));
}

__device__ __forceinline__ float LogitOf(uint64_t key) {
  const auto ordered = static_cast<uint32_t>(key >> 32);
  return __uint_as_float((ordered & 0x80000000U) != 0 ? ordered & 0x7fffffffU : ~ordered);
}

// What the tokens of a row score: logit / temperature + noise, relative to the largest logit.
class Noise {
 public:
  __device__ __forceinline__ Noise(const SampleCudaRow& row, float max)
      : key_(NoiseKey(row.seed, row.position)),
        max_(max),
        temperature_(row.temperature),
        min_p_(row.min_p) {}

  __device__ __forceinline__ double Score(float logit, int32_t token_id) const {
    return Scaled(logit) + Gumbel(NoiseBits(key_, token_id));
  }

  // Score is not larger.
  __device__ __forceinline__ double Bound(float logit, int32_t token_id) const {
    return Scaled(logit) + GumbelBound(NoiseBits(key_, token_id));
  }

  // The lowest rank key that min_p keeps.
  __device__ __forceinline__ uint64_t FloorOfMinP() const {
    return min_p_ > 0.0F ? RankKey(max_ + temperature_ * logf(min_p_), 0x7fffffff) : 0;
  }

 private:
  __device__ __forceinline__ double Scaled(float logit) const {
    return static_cast<double>((logit - max_) / temperature_);
  }

  const uint64_t key_;
  const float max_;
  const float temperature_;
  const float min_p_;
};

// The largest score, ties by lower id.
struct Winner {
  double score = -__builtin_huge_val();
  int32_t token_id = -1;

  __device__ __forceinline__ void Consider(double other, int32_t other_id) {
    if (other_id >= 0 &&
        (token_id < 0 || other > score || (other == score && other_id < token_id))) {
      score = other;
      token_id = other_id;
    }
  }
};

struct Add {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

struct Max {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

template <typename T, typename Fold>
__device__ __forceinline__ T ReduceWarp(T value, Fold fold) {
#pragma unroll
  for (int32_t distance = 16; distance > 0; distance /= 2) {
    value = fold(value, __shfl_xor_sync(0xffffffffU, value, distance));
  }
  return value;
}

// Over the block, in one order; every thread gets the result. `shared` holds kWarps values.
template <typename T, typename Fold>
__device__ __forceinline__ T ReduceBlock(T value, Fold fold, T* shared) {
  value = ReduceWarp(value, fold);
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    shared[threadIdx.x / 32] = value;
  }
  __syncthreads();
  return ReduceWarp(shared[threadIdx.x % 32], fold);
}

// Sorts `count` values, a power of two, largest first.
template <typename T>
__device__ void SortDescending(T* values, int32_t count) {
  for (int32_t size = 2; size <= count; size *= 2) {
    for (int32_t stride = size / 2; stride > 0; stride /= 2) {
      __syncthreads();
      for (auto i = static_cast<int32_t>(threadIdx.x); i < count / 2; i += kThreads) {
        const int32_t low = 2 * i - (i & (stride - 1));
        const int32_t high = low + stride;
        const bool ascending = (low & size) != 0;
        const T a = values[low];
        const T b = values[high];
        if ((a < b) != ascending) {
          values[low] = b;
          values[high] = a;
        }
      }
    }
  }
  __syncthreads();
}

}  // namespace ringserve::cuda::sample
