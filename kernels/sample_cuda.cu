#include <climits>

#include "kernels/cuda_util.cuh"
#include "kernels/sample_cuda.h"
#include "kernels/types.h"

namespace ringserve::cuda {
namespace {

constexpr int32_t kThreads = 1024;
constexpr int32_t kWarps = kThreads / 32;

// The finalizer of SplitMix64 and the noise of sampler.cc.
constexpr uint64_t kGoldenGamma = 0x9e3779b97f4a7c15U;

__device__ __forceinline__ uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

__device__ __forceinline__ double Gumbel(uint64_t bits) {
  const double uniform = (static_cast<double>(bits >> 11) + 0.5) * 0x1p-53;
  return -log(-log1p(-uniform));
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

// Reduces over the block in one order; every thread gets the result. `fold` is associative enough
// for that order to define it.
template <typename T, typename Fold>
__device__ T ReduceBlock(T value, Fold fold, T* shared) {
  for (int32_t distance = 16; distance > 0; distance /= 2) {
    value = fold(value, __shfl_xor_sync(0xffffffffU, value, distance));
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    shared[threadIdx.x / 32] = value;
  }
  __syncthreads();
  T total = shared[0];
  for (int32_t i = 1; i < kWarps; ++i) {
    total = fold(total, shared[i]);
  }
  return total;
}

struct Shared {
  double doubles[kWarps];
  uint64_t words[kWarps];
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

class Row {
 public:
  __device__ Row(const float* logits, int32_t vocab_size, const SampleCudaRow& row, Shared& shared)
      : logits_(logits), vocab_size_(vocab_size), row_(row), shared_(shared) {}

  __device__ uint64_t Best() {
    uint64_t best = 0;
    for (auto i = static_cast<int32_t>(threadIdx.x); i < vocab_size_; i += kThreads) {
      const uint64_t key = RankKey(logits_[i], i);
      best = key > best ? key : best;
    }
    best = ReduceBlock(best, Max(), shared_.words);
    max_ = LogitOf(best);
    return best;
  }

  // A logit that is NaN or +infinity makes the row unusable.
  __device__ bool IsSound() {
    uint64_t bad = 0;
    for (auto i = static_cast<int32_t>(threadIdx.x); i < vocab_size_; i += kThreads) {
      bad |= logits_[i] <= 3.402823466e38F ? 0U : 1U;
    }
    return ReduceBlock(bad, Max(), shared_.words) == 0;
  }

  __device__ double Mass(uint64_t cut, float temperature) {
    double mass = 0;
    for (auto i = static_cast<int32_t>(threadIdx.x); i < vocab_size_; i += kThreads) {
      if (RankKey(logits_[i], i) >= cut) {
        mass += static_cast<double>(expf((logits_[i] - max_) / temperature));
      }
    }
    return ReduceBlock(mass, Add(), shared_.doubles);
  }

  __device__ int64_t Count(uint64_t cut) {
    uint64_t count = 0;
    for (auto i = static_cast<int32_t>(threadIdx.x); i < vocab_size_; i += kThreads) {
      count += RankKey(logits_[i], i) >= cut ? 1U : 0U;
    }
    return static_cast<int64_t>(ReduceBlock(count, Add(), shared_.words));
  }

  // The lowest rank key that top_k, top_p and min_p keep; 0 if they keep all. The largest cut whose
  // set is large enough, found bit by bit.
  __device__ uint64_t Cut() {
    uint64_t cut = 0;
    if (row_.top_k > 0 && row_.top_k < vocab_size_) {
      for (int32_t bit = 63; bit >= 0; --bit) {
        const uint64_t higher = cut | (uint64_t{1} << bit);
        cut = Count(higher) >= row_.top_k ? higher : cut;
      }
    }
    if (row_.top_p < 1.0F) {
      const double wanted = static_cast<double>(row_.top_p) * Mass(cut, row_.temperature);
      uint64_t nucleus = 0;
      for (int32_t bit = 63; bit >= 0; --bit) {
        const uint64_t higher = nucleus | (uint64_t{1} << bit);
        nucleus = Mass(higher, row_.temperature) >= wanted ? higher : nucleus;
      }
      cut = nucleus > cut ? nucleus : cut;
    }
    if (row_.min_p > 0.0F) {
      const uint64_t floor = RankKey(max_ + row_.temperature * logf(row_.min_p), INT_MAX);
      cut = floor > cut ? floor : cut;
    }
    return cut;
  }

  __device__ int32_t Draw(uint64_t cut) {
    const uint64_t noise =
        Mix(Mix(row_.seed + kGoldenGamma) + static_cast<uint64_t>(row_.position) * kGoldenGamma);
    double best = -INFINITY;
    int32_t best_token = -1;
    for (auto i = static_cast<int32_t>(threadIdx.x); i < vocab_size_; i += kThreads) {
      if (logits_[i] == -INFINITY || RankKey(logits_[i], i) < cut) {
        continue;
      }
      const uint64_t bits = Mix(noise + (static_cast<uint64_t>(i) + 1) * kGoldenGamma);
      const double score =
          static_cast<double>((logits_[i] - max_) / row_.temperature) + Gumbel(bits);
      if (best_token < 0 || score > best) {
        best = score;
        best_token = i;
      }
    }
    // The largest score, ties by lower id: first the score, then the id among those who have it.
    const double top = ReduceBlock(best, Max(), shared_.doubles);
    const uint64_t key = best_token >= 0 && best == top
                             ? 0xffffffffU - static_cast<uint32_t>(best_token)
                             : uint64_t{0};
    return TokenOf(ReduceBlock(key, Max(), shared_.words));
  }

  __device__ float max() const { return max_; }

 private:
  const float* logits_;
  int32_t vocab_size_;
  const SampleCudaRow& row_;
  Shared& shared_;
  float max_ = 0;
};

__global__ void __launch_bounds__(kThreads) SampleKernel(const SampleCudaArgs args) {
  __shared__ Shared shared;
  const SampleCudaRow row = args.rows[blockIdx.x];
  const float* logits = args.logits + int64_t{row.logits_row} * args.vocab_size;
  Row work(logits, args.vocab_size, row, shared);
  SampleCudaResult result = {-1, 0};
  const bool is_sound = work.IsSound();
  const uint64_t best = work.Best();
  if (is_sound && work.max() != -INFINITY) {
    const double log_sum = static_cast<double>(work.max()) + log(work.Mass(0, 1.0F));
    result.token_id = row.forced_token;
    if (row.forced_token < 0) {
      result.token_id = row.temperature == 0.0F ? TokenOf(best) : work.Draw(work.Cut());
    }
    if (result.token_id >= 0) {
      result.logprob = static_cast<float>(static_cast<double>(logits[result.token_id]) - log_sum);
    }
  }
  if (threadIdx.x == 0) {
    args.results[blockIdx.x] = result;
    if (row.feedback_slot >= 0) {
      args.feedback[row.feedback_slot] = result.token_id;
    }
  }
}

}  // namespace

size_t SampleWorkspaceBytes(int32_t /*num_rows*/, int32_t /*vocab_size*/) {
  return 0;
}

cudaError_t LaunchSample(const SampleCudaArgs& args, cudaStream_t stream) {
  if (args.vocab_size < 1) {
    return cudaErrorInvalidValue;
  }
  if (args.num_rows == 0) {
    return cudaSuccess;
  }
  SampleKernel<<<static_cast<unsigned>(args.num_rows), kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace ringserve::cuda
