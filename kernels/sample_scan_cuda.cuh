// The parts of sampling that run over pieces of a row, on the whole device: the scan that every row
// needs, and the draw of a row that keeps all its tokens.
#pragma once

#include <cstdint>

#include "kernels/cuda_util.cuh"
#include "kernels/sample_cuda.h"
#include "kernels/sample_rules_cuda.cuh"
#include "kernels/types.h"

namespace ringserve::cuda::sample {
namespace {

// Of one piece of a row.
struct Scan {
  uint64_t best;  // rank key; 0 if the piece has no logit above -infinity
  double sum;     // of exp(logit - best logit)
  uint64_t unsound;
};

// The winner of one piece of a row that keeps all tokens; token_id -1: none can win.
struct Draw {
  double score;
  int64_t token_id;
};

struct Workspace {
  Scan* scans;   // [num_rows, num_pieces]
  Draw* draws;   // [num_rows, num_pieces]
  float* peaks;  // [num_rows, num_pieces * kScanThreads]: the largest logit that a thread saw
};

__host__ __device__ int32_t NumPieces(int32_t vocab_size) {
  return CeilDiv(vocab_size, kPiece);
}

Workspace Carve(const SampleCudaArgs& args) {
  const int64_t pieces = int64_t{args.num_rows} * NumPieces(args.vocab_size);
  auto* scans = reinterpret_cast<Scan*>(args.workspace);
  auto* draws = reinterpret_cast<Draw*>(scans + pieces);
  return {scans, draws, reinterpret_cast<float*>(draws + pieces)};
}

__global__ void __launch_bounds__(kScanThreads)
    ScanKernel(const SampleCudaArgs args, const Workspace workspace) {
  __shared__ uint64_t words[kScanThreads / 32];
  __shared__ double sums[kScanThreads / 32];
  AllowNextKernel();
  WaitForPreviousKernel();
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const float* logits = args.logits + int64_t{args.rows[blockIdx.y].logits_row} * args.vocab_size;
  const auto first = static_cast<int32_t>(blockIdx.x) * kPiece;
  float values[kScanEach];
  uint64_t best = 0;
  uint32_t unsound = 0;
#pragma unroll
  for (int32_t i = 0; i < kScanEach; ++i) {
    const int32_t token_id = first + i * kScanThreads + thread;
    values[i] = token_id < args.vocab_size ? logits[token_id] : kMinusInfinity;
  }
#pragma unroll
  for (int32_t i = 0; i < kScanEach; ++i) {
    unsound |= values[i] <= 3.402823466e38F ? 0U : 1U;
    const uint64_t key =
        values[i] == kMinusInfinity ? 0 : RankKey(values[i], first + i * kScanThreads + thread);
    best = key > best ? key : best;
  }
  const int64_t piece = int64_t{blockIdx.y} * gridDim.x + blockIdx.x;
  workspace.peaks[piece * kScanThreads + thread] = best == 0 ? kMinusInfinity : LogitOf(best);
  best = ReduceWarp(best, Max());
  if (thread % 32 == 0) {
    words[thread / 32] = best;
  }
  unsound = static_cast<uint32_t>(__syncthreads_or(static_cast<int>(unsound)));
  for (const uint64_t word : words) {
    best = word > best ? word : best;
  }
  const float max = LogitOf(best);
  float sum = 0;
#pragma unroll
  for (int32_t i = 0; i < kScanEach; ++i) {
    sum += best == 0 ? 0.0F : expf(values[i] - max);
  }
  const double of_warp = ReduceWarp(static_cast<double>(sum), Add());
  if (thread % 32 == 0) {
    sums[thread / 32] = of_warp;
  }
  __syncthreads();
  if (thread == 0) {
    double total = 0;
    for (const double part : sums) {
      total += part;
    }
    workspace.scans[piece] = {best, total, unsound};
  }
}

// Whether neither top_k nor top_p bounds the tokens, so that pieces can be drawn from side by side.
__device__ __forceinline__ bool KeepsAll(const SampleCudaRow& row, int32_t vocab_size) {
  return row.forced_token < 0 && row.temperature != 0.0F && row.top_p >= 1.0F &&
         (row.top_k <= 0 || row.top_k >= vocab_size);
}

__global__ void __launch_bounds__(kScanThreads)
    DrawKernel(const SampleCudaArgs args, const Workspace workspace) {
  __shared__ uint64_t words[kScanThreads / 32];
  __shared__ double scores[kScanThreads / 32];
  __shared__ int32_t tokens[kScanThreads / 32];
  AllowNextKernel();
  WaitForPreviousKernel();
  const SampleCudaRow& row = args.rows[blockIdx.y];
  if (!KeepsAll(row, args.vocab_size)) {
    return;
  }
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int64_t pieces = int64_t{blockIdx.y} * gridDim.x;
  uint64_t best = 0;
  for (auto i = thread; i < static_cast<int32_t>(gridDim.x); i += kScanThreads) {
    best = Max()(best, workspace.scans[pieces + i].best);
  }
  best = ReduceWarp(best, Max());
  if (thread % 32 == 0) {
    words[thread / 32] = best;
  }
  __syncthreads();
  for (const uint64_t word : words) {
    best = Max()(best, word);
  }
  // Most tokens cannot win, and are told by a bound on their noise, which costs no logarithms.
  const Noise noise(row, LogitOf(best));
  const double limit = noise.Score(LogitOf(best), TokenOf(best));
  const uint64_t floor = noise.FloorOfMinP();
  const float* logits = args.logits + int64_t{row.logits_row} * args.vocab_size;
  Winner winner;
#pragma unroll 4
  for (int32_t i = 0; i < kScanEach; ++i) {
    const int32_t token_id = static_cast<int32_t>(blockIdx.x) * kPiece + i * kScanThreads + thread;
    const float logit = token_id < args.vocab_size ? logits[token_id] : kMinusInfinity;
    if (logit > kMinusInfinity && noise.Bound(logit, token_id) >= limit &&
        RankKey(logit, token_id) >= floor) {
      winner.Consider(noise.Score(logit, token_id), token_id);
    }
  }
#pragma unroll
  for (int32_t distance = 16; distance > 0; distance /= 2) {
    const double score = __shfl_xor_sync(0xffffffffU, winner.score, distance);
    const int32_t token_id = __shfl_xor_sync(0xffffffffU, winner.token_id, distance);
    winner.Consider(score, token_id);
  }
  if (thread % 32 == 0) {
    scores[thread / 32] = winner.score;
    tokens[thread / 32] = winner.token_id;
  }
  __syncthreads();
  if (thread == 0) {
    for (int32_t i = 1; i < kScanThreads / 32; ++i) {
      winner.Consider(scores[i], tokens[i]);
    }
    workspace.draws[pieces + blockIdx.x] = {winner.score, winner.token_id};
  }
}

}  // namespace
}  // namespace ringserve::cuda::sample
