// Where a row's nucleus, or its top k, ends, for distributions too flat to be ranked whole: a
// histogram over the logits, then the order of the tokens of one of its bins alone. Weights are
// whole numbers, so that their sums do not depend on the order in which tokens come.
#pragma once

#include <cstdint>

#include "kernels/sample_rules_cuda.cuh"

namespace ringserve::cuda::sample {

// Bins of the histogram: as many as tokens can be ranked, in the same memory.
inline constexpr int32_t kBins = kMaxRanked;

struct BinsShared {
  uint64_t words[kWarps];
  uint64_t before;
  int32_t place;
  int32_t count;
};

// One block.
class Bins {
 public:
  // `values`: kBins words of shared memory.
  __device__ __forceinline__ Bins(const float* logits,
                                  int32_t vocab_size,
                                  float max,
                                  float temperature,
                                  uint64_t* values,
                                  BinsShared& shared)
      : logits_(logits),
        vocab_size_(vocab_size),
        max_(max),
        temperature_(temperature),
        values_(values),
        shared_(shared),
        thread_(static_cast<int32_t>(threadIdx.x)) {}

  // The lowest key of the smallest set of highest ranks that reaches `wanted(all)`, of tokens from
  // `floor` up that weigh `weigh(logit)` each and `all` together. 0: all do not reach it, or too
  // many are so alike that this way does not tell.
  template <typename Weigh, typename Wanted>
  __device__ uint64_t Cut(uint64_t floor, const Weigh& weigh, const Wanted& wanted) {
    for (int32_t i = thread_; i < kBins; i += kThreads) {
      values_[i] = 0;
    }
    __syncthreads();
    ForTokens(floor, [&](float logit, int32_t) {
      atomicAdd(reinterpret_cast<unsigned long long*>(values_ + BinOf(logit)),
                static_cast<unsigned long long>(weigh(logit)));
    });
    __syncthreads();
    uint64_t all = 0;
    for (int32_t i = thread_; i < kBins; i += kThreads) {
      all += values_[i];
    }
    const uint64_t target = wanted(ReduceBlock(all, Add(), shared_.words));
    const int32_t bin = Cross(0, target);
    if (bin == kBins) {
      return 0;
    }
    const uint64_t before = shared_.before;
    const int32_t count = Rank(floor, bin);
    if (count > kBins) {
      return 0;
    }
    // From here on values_ are keys, and their weights stand for them.
    const int32_t place = CrossRanked(count, before, target, weigh);
    return place < count ? values_[place] : 0;
  }

 private:
  static constexpr int32_t kEach = kBins / kThreads;

  // Larger logits never lie in a later bin.
  __device__ __forceinline__ int32_t BinOf(float logit) const {
    constexpr float kBinsOfE = 128;  // weights down to e^-32 have bins of their own
    return static_cast<int32_t>(
        fminf((max_ - logit) / temperature_ * kBinsOfE, static_cast<float>(kBins - 1)));
  }

  template <typename F>
  __device__ __forceinline__ void ForTokens(uint64_t floor, const F& f) const {
#pragma unroll 4
    for (int32_t i = thread_; i < vocab_size_; i += kThreads) {
      const float logit = logits_[i];
      if (logit > kMinusInfinity && RankKey(logit, i) >= floor) {
        f(logit, i);
      }
    }
  }

  // The place of the first of kBins weights, `of(place)` each, with which `before` and they reach
  // target; kBins if they do not. shared_.before becomes the sum without it.
  template <typename Of>
  __device__ int32_t FirstCrossing(uint64_t before, uint64_t target, const Of& of) {
    uint64_t own = 0;
    for (int32_t i = 0; i < kEach; ++i) {
      own += of(thread_ * kEach + i);
    }
    uint64_t sum = own;
#pragma unroll
    for (int32_t distance = 1; distance < 32; distance *= 2) {
      const uint64_t other = __shfl_up_sync(0xffffffffU, sum, distance);
      sum += thread_ % 32 >= distance ? other : 0;
    }
    __syncthreads();
    shared_.place = kBins;
    if (thread_ % 32 == 31) {
      shared_.words[thread_ / 32] = sum;
    }
    __syncthreads();
    sum += before - own;
    for (int32_t i = 0; i < thread_ / 32; ++i) {
      sum += shared_.words[i];
    }
    // Sums grow from thread to thread: at most one finds the crossing.
    for (int32_t i = 0; sum < target && i < kEach; ++i) {
      const uint64_t weight = of(thread_ * kEach + i);
      if (sum + weight >= target) {
        shared_.place = thread_ * kEach + i;
        shared_.before = sum;
      }
      sum += weight;
    }
    __syncthreads();
    return shared_.place;
  }

  __device__ int32_t Cross(uint64_t before, uint64_t target) {
    return FirstCrossing(before, target, [this](int32_t place) { return values_[place]; });
  }

  template <typename Weigh>
  __device__ int32_t
  CrossRanked(int32_t count, uint64_t before, uint64_t target, const Weigh& weigh) {
    return FirstCrossing(before, target, [&](int32_t place) {
      return place < count ? weigh(LogitOf(values_[place])) : uint64_t{0};
    });
  }

  // Replaces the bins by the ranked tokens of one of them; how many there are, which may be too
  // many for all to be kept.
  __device__ int32_t Rank(uint64_t floor, int32_t bin) {
    if (thread_ == 0) {
      shared_.count = 0;
    }
    __syncthreads();
    ForTokens(floor, [&](float logit, int32_t token_id) {
      if (BinOf(logit) == bin) {
        const int32_t place = atomicAdd(&shared_.count, 1);
        if (place < kBins) {
          values_[place] = RankKey(logit, token_id);
        }
      }
    });
    __syncthreads();
    const int32_t count = shared_.count;
    if (count > kBins) {
      return count;
    }
    int32_t size = 32;
    while (size < count) {
      size *= 2;
    }
    for (int32_t i = count + thread_; i < size; i += kThreads) {
      values_[i] = 0;
    }
    SortDescending(values_, size);  // the order in which they came is forgotten
    return count;
  }

  const float* logits_;
  const int32_t vocab_size_;
  const float max_;
  const float temperature_;
  uint64_t* const values_;
  BinsShared& shared_;
  const int32_t thread_;
};

}  // namespace ringserve::cuda::sample
