// What makes a row's result the same bits in every attention kernel of this backend, whatever
// thread computes it. All kernels, on mma.sync or on wgmma, follow these rules:
//  - Key tiles of TileKeys(head_dim) keys at absolute positions, in ascending order; scores of a
//    tile accumulate over head_dim in steps of 16, outputs over the tile's keys in steps of 16.
//  - The row's reference value m changes only where a tile's largest score exceeds it by more than
//    2^kLazyExponent: an output is rescaled rarely, and a factor of 1 may be skipped.
//  - The tile's sum of probabilities: lane t of a row adds its columns 8j + 2t and 8j + 2t + 1 for
//    the j of a quarter of the tile in order, quarters add as (0 + 1) + (2 + 3), the tile's sum is
//    added to the lane's running sum by one fma, and lanes meet at the end of a split by QuadSum.
//  - Splits are folded one by one from the first by Fold. Sinks are the first.
//  - A head_dim between those of the kernels is padded with zeros.
//  - Scores are capped, then biased by position, then masked.
// Masked scores are -inf and contribute exact zeros, so masked tiles change nothing.
#pragma once

#include <cstdint>

#include "kernels/attention_cuda_params.cuh"
#include "kernels/cuda_util.cuh"

namespace ringserve::cuda {

inline constexpr float kNegativeInfinity = -__builtin_huge_valf();

// Probabilities reach 2^8 = 256: nothing to float16, bfloat16 or a float32 sum.
inline constexpr float kLazyExponent = 8;

// A row's reference value after a tile with largest score `tile_max`, in units of scores;
// scale_log2 = scale * log2(e) > 0 turns scores into exponents of 2.
__device__ __forceinline__ float NextReference(float reference, float tile_max, float scale_log2) {
  // With both -inf the difference is NaN and the comparison false.
  return (tile_max - reference) * scale_log2 > kLazyExponent ? tile_max : reference;
}

// What to multiply the row's output and sum by when its reference value changes.
__device__ __forceinline__ float Rescale(float reference, float next, float scale_log2) {
  return next == reference ? 1.0F : Exp2(__fmul_rn(reference - next, scale_log2));
}

// The subtrahend of all exponents of a row.
__device__ __forceinline__ float ScaledReference(float reference, float scale_log2) {
  return reference == kNegativeInfinity ? 0.0F : __fmul_rn(reference, scale_log2);
}

__device__ __forceinline__ float Probability(float score,
                                             float scale_log2,
                                             float scaled_reference) {
  return Exp2(__fmaf_rn(score, scale_log2, -scaled_reference));
}

// A score bent by soft-capping: tanh by exponents of 2, exact to a few ulp of 1.
__device__ __forceinline__ float Capped(float score, float cap_scale) {
  const float power = Exp2(__fmul_rn(__fmul_rn(score, cap_scale), 2.8853900817779268F));
  return __fsub_rn(1.0F, __fdividef(2.0F, __fadd_rn(power, 1.0F)));
}

// A score plus its bias by position. `key` and `position` are counted from one base.
__device__ __forceinline__ float Biased(
    float score, const AttentionCudaParams& params, int32_t head, int32_t key, int32_t position) {
  const int32_t reach = params.bias_reach;
  const int32_t distance = min(max(key - position, -reach), reach);
  const float* bias = params.position_bias + int64_t{head} * (2 * reach + 1) + reach;
  return __fmaf_rn(__ldg(bias + distance), params.bias_scale, score);
}

// What a learned sink adds to the sum of a row.
__device__ __forceinline__ float LearnedSink(float logit, float reference, float scale_log2) {
  return Exp2(__fmaf_rn(logit, 1.4426950408889634F, -ScaledReference(reference, scale_log2)));
}

// Folds the result of a split into those before: out = out * before + part * part_factor, and the
// same for sums. Starting from zeros and reference -inf, the first fold copies.
struct Folding {
  float reference;
  float before;
  float part;
};

__device__ __forceinline__ Folding Fold(float reference, float part_reference, float scale_log2) {
  Folding fold;
  fold.reference = fmaxf(reference, part_reference);
  fold.before = reference == kNegativeInfinity
                    ? 0.0F
                    : Exp2(__fmul_rn(reference - fold.reference, scale_log2));
  fold.part = part_reference == kNegativeInfinity
                  ? 0.0F
                  : Exp2(__fmul_rn(part_reference - fold.reference, scale_log2));
  return fold;
}

__device__ __forceinline__ float Folded(const Folding& fold, float value, float part) {
  return __fmaf_rn(part, fold.part, __fmul_rn(value, fold.before));
}

// A row's final factor; a row that saw nothing gives zeros.
__device__ __forceinline__ float Normalizer(float sum) {
  return sum > 0 ? __fdividef(1.0F, sum) : 0.0F;
}

}  // namespace ringserve::cuda
