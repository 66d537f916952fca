#include "kernels/cuda_util.cuh"
#include "kernels/launch_cuda.h"
#include "kernels/sample_bins_cuda.cuh"
#include "kernels/sample_cuda.h"
#include "kernels/sample_rules_cuda.cuh"
#include "kernels/sample_scan_cuda.cuh"
#include "kernels/types.h"

namespace ringserve::cuda {
namespace sample {
namespace {

struct Shared {
  double doubles[kWarps];
  uint64_t words[kWarps];
  int32_t count;
  int32_t crossing;
  float peaks[kThreads];
  uint64_t ranked[kMaxRanked];
  BinsShared bins;
};

// One row, by one block.
class Row {
 public:
  __device__ Row(const float* logits, int32_t vocab_size, const SampleCudaRow& row, Shared& shared)
      : logits_(logits),
        vocab_size_(vocab_size),
        row_(row),
        shared_(shared),
        thread_(static_cast<int32_t>(threadIdx.x)) {}

  // Puts the pieces together; false: nothing can be chosen.
  __device__ bool Merge(const Scan* scans) {
    const int32_t pieces = NumPieces(vocab_size_);
    uint64_t best = 0;
    uint64_t unsound = 0;
    for (int32_t i = thread_; i < pieces; i += kThreads) {
      best = Max()(best, scans[i].best);
      unsound |= scans[i].unsound;
    }
    best_ = ReduceBlock(best, Max(), shared_.words);
    unsound = ReduceBlock(unsound, Max(), shared_.words);
    max_ = LogitOf(best_);
    double sum = 0;
    for (int32_t i = thread_; i < pieces; i += kThreads) {
      if (scans[i].best != 0) {
        sum += scans[i].sum * exp(static_cast<double>(LogitOf(scans[i].best) - max_));
      }
    }
    sum_ = ReduceBlock(sum, Add(), shared_.doubles);
    return unsound == 0 && best_ != 0;
  }

  __device__ double log_sum() const { return static_cast<double>(max_) + log(sum_); }

  __device__ int32_t Choose(const float* peaks, const Draw* draws) {
    if (row_.temperature == 0.0F) {
      return TokenOf(best_);
    }
    const bool has_top_k = row_.top_k > 0 && row_.top_k < vocab_size_;
    const bool has_top_p = row_.top_p < 1.0F;
    if (!has_top_k && !has_top_p) {
      Winner winner;
      for (int32_t i = thread_; i < NumPieces(vocab_size_); i += kThreads) {
        winner.Consider(draws[i].score, static_cast<int32_t>(draws[i].token_id));
      }
      return WinnerOfBlock(winner);
    }
    const int32_t wanted = has_top_k ? row_.top_k : kNucleusGuess;
    int32_t kept = 0;
    if (wanted <= kThreads && Rank(peaks, wanted)) {
      kept = has_top_k ? min(wanted, shared_.count) : shared_.count;
      kept = has_top_p ? Nucleus(kept, has_top_k) : kept;
    }
    return kept > 0 ? DrawFromRanked(kept) : DrawFromAll(Cut(has_top_k, has_top_p));
  }

 private:
  __device__ float Weight(float logit) const { return expf((logit - max_) / row_.temperature); }

  // Sorts into shared_.ranked all tokens down to a logit that at least `wanted` tokens reach (as
  // the largest of `wanted` disjoint sets of tokens do); false: they are too many.
  __device__ bool Rank(const float* peaks, int32_t wanted) {
    const int32_t num_peaks = NumPieces(vocab_size_) * kScanThreads;
    float peak = kMinusInfinity;
    for (int32_t i = thread_; i < num_peaks; i += kThreads) {
      peak = fmaxf(peak, peaks[i]);
    }
    shared_.peaks[thread_] = peak;
    shared_.count = 0;
    SortDescending(shared_.peaks, kThreads);
    const float floor = shared_.peaks[wanted - 1];
    for (int32_t i = thread_; i < vocab_size_; i += kThreads) {
      const float logit = logits_[i];
      if (logit >= floor && logit > kMinusInfinity) {
        const int32_t place = atomicAdd(&shared_.count, 1);
        if (place < kMaxRanked) {
          shared_.ranked[place] = RankKey(logit, i);
        }
      }
    }
    __syncthreads();
    const int32_t count = shared_.count;
    if (count > kMaxRanked) {
      return false;
    }
    int32_t size = 32;
    while (size < count) {
      size *= 2;
    }
    for (int32_t i = count + thread_; i < size; i += kThreads) {
      shared_.ranked[i] = 0;
    }
    SortDescending(shared_.ranked, size);  // the order in which they came is forgotten
    return true;
  }

  // How many of the first `kept` ranked tokens reach top_p; 0: all together do not.
  __device__ int32_t Nucleus(int32_t kept, bool has_top_k) {
    constexpr int32_t kEach = kMaxRanked / kThreads;
    double weights[kEach];
    double own = 0;
    for (int32_t i = 0; i < kEach; ++i) {
      const int32_t place = thread_ * kEach + i;
      weights[i] = place < kept ? static_cast<double>(Weight(LogitOf(shared_.ranked[place]))) : 0.0;
      own += weights[i];
    }
    double before = own;  // sum up to and with this thread, then without
    for (int32_t distance = 1; distance < 32; distance *= 2) {
      const double other = __shfl_up_sync(0xffffffffU, before, distance);
      before += thread_ % 32 >= distance ? other : 0.0;
    }
    __syncthreads();
    shared_.crossing = kept;
    if (thread_ % 32 == 31) {
      shared_.doubles[thread_ / 32] = before;
    }
    __syncthreads();
    double mass = 0;
    double warps_before = 0;
    for (int32_t i = 0; i < kWarps; ++i) {
      warps_before += i < thread_ / 32 ? shared_.doubles[i] : 0.0;
      mass += shared_.doubles[i];
    }
    const double wanted = static_cast<double>(row_.top_p) * (has_top_k                  ? mass
                                                             : row_.temperature == 1.0F ? sum_
                                                                                        : Mass(0));
    double sum = warps_before + before - own;
    for (int32_t i = 0; i < kEach; ++i) {
      sum += weights[i];
      if (thread_ * kEach + i < kept && sum >= wanted) {
        atomicMin(&shared_.crossing, thread_ * kEach + i);
        break;
      }
    }
    __syncthreads();
    const int32_t crossing = shared_.crossing;
    return crossing < kept ? crossing + 1 : has_top_k ? kept : 0;
  }

  __device__ int32_t DrawFromRanked(int32_t kept) {
    const Noise noise(row_, max_);
    const uint64_t floor = noise.FloorOfMinP();
    Winner winner;
    for (int32_t i = thread_; i < kept; i += kThreads) {
      const uint64_t key = shared_.ranked[i];
      if (key >= floor) {
        winner.Consider(noise.Score(LogitOf(key), TokenOf(key)), TokenOf(key));
      }
    }
    return WinnerOfBlock(winner);
  }

  __device__ int32_t DrawFromAll(uint64_t cut) {
    const Noise noise(row_, max_);
    const double limit = noise.Score(max_, TokenOf(best_));
    Winner winner;
    for (int32_t i = thread_; i < vocab_size_; i += kThreads) {
      const float logit = logits_[i];
      if (logit > kMinusInfinity && noise.Bound(logit, i) >= limit && RankKey(logit, i) >= cut) {
        winner.Consider(noise.Score(logit, i), i);
      }
    }
    return WinnerOfBlock(winner);
  }

  // The largest score, ties by lower id.
  __device__ int32_t WinnerOfBlock(const Winner& winner) {
    const double top = ReduceBlock(winner.score, Max(), shared_.doubles);
    const uint64_t key = winner.token_id >= 0 && winner.score == top
                             ? 0xffffffffU - static_cast<uint32_t>(winner.token_id)
                             : uint64_t{0};
    return TokenOf(ReduceBlock(key, Max(), shared_.words));
  }

  // Of the tokens from rank key `cut` up.
  __device__ double Mass(uint64_t cut) {
    double mass = 0;
    for (int32_t i = thread_; i < vocab_size_; i += kThreads) {
      mass += RankKey(logits_[i], i) >= cut ? static_cast<double>(Weight(logits_[i])) : 0.0;
    }
    return ReduceBlock(mass, Add(), shared_.doubles);
  }

  __device__ int64_t Count(uint64_t cut) {
    uint64_t count = 0;
    for (int32_t i = thread_; i < vocab_size_; i += kThreads) {
      count += RankKey(logits_[i], i) >= cut ? 1U : 0U;
    }
    return static_cast<int64_t>(ReduceBlock(count, Add(), shared_.words));
  }

  // Of flat distributions: by bins, and where those do not tell, the slow way.
  __device__ uint64_t Cut(bool has_top_k, bool has_top_p) {
    Bins bins(logits_, vocab_size_, max_, row_.temperature, shared_.ranked, shared_.bins);
    uint64_t cut = 0;
    if (has_top_k) {
      cut = bins.Cut(
          0,
          [](float) { return uint64_t{1}; },
          [this](uint64_t) { return static_cast<uint64_t>(row_.top_k); });
      cut = cut > 0 ? cut : CutByCount();
    }
    if (has_top_p) {
      // As many bits as leave room for the sum: a weight of 1 is 2^45 among 2^17 tokens.
      const double unit = scalbn(1.0, __clz(vocab_size_) + 30);
      const uint64_t nucleus = bins.Cut(
          cut,
          [this, unit](float logit) {
            return static_cast<uint64_t>(static_cast<double>(Weight(logit)) * unit);
          },
          [this](uint64_t all) {
            const double wanted = static_cast<double>(row_.top_p) * static_cast<double>(all);
            return Max()(static_cast<uint64_t>(ceil(wanted)), uint64_t{1});
          });
      cut = Max()(cut, nucleus > 0 ? nucleus : CutByMass(cut));
    }
    return Max()(cut, Noise(row_, max_).FloorOfMinP());
  }

  // The largest cut whose set is large enough, bit by bit.
  __device__ uint64_t CutByCount() {
    uint64_t cut = 0;
    for (int32_t bit = 63; bit >= 0; --bit) {
      const uint64_t higher = cut | (uint64_t{1} << bit);
      cut = Count(higher) >= row_.top_k ? higher : cut;
    }
    return cut;
  }

  __device__ uint64_t CutByMass(uint64_t floor) {
    const double wanted = static_cast<double>(row_.top_p) * Mass(floor);
    uint64_t cut = 0;
    for (int32_t bit = 63; bit >= 0; --bit) {
      const uint64_t higher = cut | (uint64_t{1} << bit);
      cut = Mass(higher) >= wanted ? higher : cut;
    }
    return cut;
  }

  const float* logits_;
  const int32_t vocab_size_;
  const SampleCudaRow& row_;
  Shared& shared_;
  const int32_t thread_;
  uint64_t best_ = 0;
  float max_ = 0;
  double sum_ = 0;  // of exp(logit - max)
};

__global__ void __launch_bounds__(kThreads)
    ChooseKernel(const SampleCudaArgs args, const Workspace workspace) {
  __shared__ Shared shared;
  WaitForPreviousKernel();
  AllowNextKernel();
  const SampleCudaRow row = args.rows[blockIdx.x];
  const float* logits = args.logits + int64_t{row.logits_row} * args.vocab_size;
  const int64_t pieces = int64_t{blockIdx.x} * NumPieces(args.vocab_size);
  Row work(logits, args.vocab_size, row, shared);
  SampleCudaResult result = {-1, 0};
  if (work.Merge(workspace.scans + pieces)) {
    result.token_id = row.forced_token >= 0 ? row.forced_token
                                            : work.Choose(workspace.peaks + pieces * kScanThreads,
                                                          workspace.draws + pieces);
    if (result.token_id >= 0) {
      result.logprob =
          static_cast<float>(static_cast<double>(logits[result.token_id]) - work.log_sum());
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
}  // namespace sample

size_t SampleWorkspaceBytes(int32_t num_rows, int32_t vocab_size) {
  return static_cast<size_t>(num_rows) * static_cast<size_t>(sample::NumPieces(vocab_size)) *
         (sizeof(sample::Scan) + sizeof(sample::Draw) + sample::kScanThreads * sizeof(float));
}

cudaError_t LaunchSample(const SampleCudaArgs& args, cudaStream_t stream) {
  if (args.vocab_size < 1 || args.num_rows > 65535) {
    return cudaErrorInvalidValue;
  }
  if (args.num_rows == 0) {
    return cudaSuccess;
  }
  const sample::Workspace workspace = sample::Carve(args);
  const auto rows = static_cast<unsigned>(args.num_rows);
  const dim3 pieces(static_cast<unsigned>(sample::NumPieces(args.vocab_size)), rows);
  for (const auto kernel : {sample::ScanKernel, sample::DrawKernel}) {
    const cudaError_t error =
        LaunchOverlapping(kernel, pieces, sample::kScanThreads, 0, stream, args, workspace);
    if (error != cudaSuccess) {
      return error;
    }
  }
  return LaunchOverlapping(
      sample::ChooseKernel, dim3(rows), sample::kThreads, 0, stream, args, workspace);
}

}  // namespace ringserve::cuda
