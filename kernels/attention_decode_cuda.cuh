// A decode item's arithmetic: four warps take a key tile together. Each warp computes the scores of
// a quarter of the keys for all 16 rows (the heads of a GQA group, and the queries if there are
// several), the warps agree on the tile's maxima, and each then accumulates a quarter of the output
// columns over all keys: the order along keys is that of the prefill kernels.
#pragma once

#include <cstdint>

#include "kernels/attention_cuda_params.cuh"
#include "kernels/attention_rules_cuda.cuh"
#include "kernels/cuda_util.cuh"

namespace ringserve::cuda {

inline constexpr int32_t kDecodeWarps = 4;
inline constexpr int32_t kDecodeThreads = 32 * kDecodeWarps;
inline constexpr int32_t kDecodeBarrier = 1;

template <typename T, int32_t kHeadDim>
struct DecodeShape {
  static constexpr int32_t kTile = TileKeys(kHeadDim);
  static constexpr int32_t kPanels = CeilDiv(kHeadDim, kPanelColumns);
  static constexpr int32_t kTileBytes = kPanels * kTile * kPanelRowBytes;
  static constexpr int32_t kQueryBytes = kDecodeRows * kHeadDim * 2;

  struct Exchange {
    alignas(1024) uint8_t probabilities[kDecodeRows * kTile * 2];
    float max[kDecodeRows][kDecodeWarps];
    float sum[kDecodeRows][4][kDecodeWarps];  // of lane t of the row, by quarter
  };
};

template <typename T, int32_t kHeadDim>
class DecodeRowsState {
 public:
  using Shape = DecodeShape<T, kHeadDim>;
  static constexpr int32_t kTile = Shape::kTile;
  static constexpr int32_t kKeys = kTile / kDecodeWarps;
  static constexpr int32_t kColumns = kHeadDim / kDecodeWarps;
  static constexpr int32_t kDepth = kHeadDim / 16;

  __device__ __forceinline__ explicit DecodeRowsState(typename Shape::Exchange& exchange)
      : exchange_(exchange),
        warp_(static_cast<int32_t>(threadIdx.x) / 32),
        lane_(static_cast<int32_t>(threadIdx.x) % 32),
        group_(lane_ / 4),
        quad_(lane_ % 4) {}

  // Queries lie at `queries` as [16, kHeadDim] without padding.
  __device__ __forceinline__ void Begin(const AttentionItem& item,
                                        int32_t window,
                                        uint32_t queries) {
#pragma unroll
    for (int32_t k = 0; k < kDepth; ++k) {
      const int32_t row = (lane_ & 7) + ((lane_ >> 3) & 1) * 8;
      LoadMatrix4(queries_[k], queries + (row * kHeadDim + k * 16 + (lane_ >> 4) * 8) * 2);
    }
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      const int32_t row = item.row_position + (group_ + half * 8) / item.num_heads;
      last_key_[half] = min(row, item.key_end - 1);
      first_key_[half] = max(row - window + 1, item.key_begin);
      reference_[half] = kNegativeInfinity;
      sum_[half] = 0;
    }
#pragma unroll
    for (int32_t j = 0; j < kColumns / 8; ++j) {
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        out_[j][i] = 0;
      }
    }
  }

  __device__ __forceinline__ void Scores(uint32_t keys) {
#pragma unroll
    for (int32_t j = 0; j < kKeys / 8; ++j) {
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        scores_[j][i] = 0;
      }
    }
    const int32_t key = warp_ * kKeys + (lane_ & 7) + (lane_ >> 4) * 8;
#pragma unroll
    for (int32_t k = 0; k < kDepth; ++k) {
#pragma unroll
      for (int32_t j = 0; j < kKeys / 16; ++j) {
        uint32_t b[4];
        LoadMatrix4(b, keys + TileOffset<kTile>(key + j * 16, k * 2 + ((lane_ >> 3) & 1)));
        MatrixProduct<T>(scores_[2 * j], queries_[k], b[0], b[1]);
        MatrixProduct<T>(scores_[2 * j + 1], queries_[k], b[2], b[3]);
      }
    }
  }

  // tile_key: the first key of the tile.
  __device__ __forceinline__ void Mask(int32_t tile_key) {
#pragma unroll
    for (int32_t j = 0; j < kKeys / 8; ++j) {
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        const int32_t key = tile_key + warp_ * kKeys + j * 8 + quad_ * 2 + (i & 1);
        if (key > last_key_[i >> 1] || key < first_key_[i >> 1]) {
          scores_[j][i] = kNegativeInfinity;
        }
      }
    }
  }

  __device__ __forceinline__ void PublishMax() {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      float largest = kNegativeInfinity;
#pragma unroll
      for (int32_t j = 0; j < kKeys / 8; ++j) {
        largest = fmaxf(largest, fmaxf(scores_[j][2 * half], scores_[j][2 * half + 1]));
      }
      largest = QuadMax(largest);
      if (quad_ == 0) {
        exchange_.max[group_ + 8 * half][warp_] = largest;
      }
    }
  }

  // After a barrier that follows PublishMax.
  __device__ __forceinline__ void PublishProbabilities(float scale_log2) {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      const int32_t row = group_ + 8 * half;
      const float4 largest = *reinterpret_cast<const float4*>(exchange_.max[row]);
      const float next =
          NextReference(reference_[half],
                        fmaxf(fmaxf(largest.x, largest.y), fmaxf(largest.z, largest.w)),
                        scale_log2);
      rescale_[half] = Rescale(reference_[half], next, scale_log2);
      reference_[half] = next;
      const float scaled = ScaledReference(next, scale_log2);
      float sum = 0;
#pragma unroll
      for (int32_t j = 0; j < kKeys / 8; ++j) {
        const float p0 = Probability(scores_[j][2 * half], scale_log2, scaled);
        const float p1 = Probability(scores_[j][2 * half + 1], scale_log2, scaled);
        sum = __fadd_rn(sum, p0);
        sum = __fadd_rn(sum, p1);
        const int32_t column = warp_ * kKeys + j * 8;
        *reinterpret_cast<uint32_t*>(exchange_.probabilities +
                                     TileOffset<kDecodeRows>(row, column / 8) + quad_ * 4) =
            Pack<T>(p0, p1);
      }
      exchange_.sum[row][quad_][warp_] = sum;
    }
  }

  // After a barrier that follows PublishProbabilities.
  __device__ __forceinline__ void Accumulate(uint32_t values) {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      const float4 sums = *reinterpret_cast<const float4*>(exchange_.sum[group_ + 8 * half][quad_]);
      sum_[half] = __fmaf_rn(sum_[half],
                             rescale_[half],
                             __fadd_rn(__fadd_rn(sums.x, sums.y), __fadd_rn(sums.z, sums.w)));
    }
#pragma unroll
    for (int32_t j = 0; j < kColumns / 8; ++j) {
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        out_[j][i] = __fmul_rn(out_[j][i], rescale_[i >> 1]);
      }
    }
    const uint32_t probabilities = SharedAddress(exchange_.probabilities);
    const int32_t row = (lane_ & 7) + ((lane_ >> 3) & 1) * 8;
#pragma unroll
    for (int32_t k = 0; k < kTile / 16; ++k) {
      uint32_t a[4];
      LoadMatrix4(a, probabilities + TileOffset<kDecodeRows>(row, 2 * k + (lane_ >> 4)));
      // Two columns of eight at a time; with an odd number of them the last load repeats one.
#pragma unroll
      for (int32_t j = 0; j < kColumns / 8; j += 2) {
        const int32_t pair = (j + 1 < kColumns / 8) ? (lane_ >> 4) : 0;
        uint32_t b[4];
        LoadMatrix4Transposed(
            b, values + TileOffset<kTile>(k * 16 + row, warp_ * (kColumns / 8) + j + pair));
        MatrixProduct<T>(out_[j], a, b[0], b[1]);
        if (j + 1 < kColumns / 8) {
          MatrixProduct<T>(out_[j + 1], a, b[2], b[3]);
        }
      }
    }
  }

  // Writes `out`, or the item's partial results.
  __device__ __forceinline__ void Finish(const AttentionItem& item,
                                         const AttentionCudaParams& params) {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      const float sum = QuadSum(sum_[half]);
      const int32_t packed_row = group_ + 8 * half;
      const int32_t row = packed_row / item.num_heads;
      const int32_t head = packed_row % item.num_heads;
      if (row >= item.num_rows) {
        continue;
      }
      const int32_t column = warp_ * kColumns + quad_ * 2;
      if (item.first_partial >= 0) {
        const int64_t partial =
            item.first_partial + static_cast<int64_t>(row) * item.partial_stride + head;
        float* to = params.partial_out + partial * kHeadDim + column;
#pragma unroll
        for (int32_t j = 0; j < kColumns / 8; ++j) {
          *reinterpret_cast<float2*>(to + j * 8) =
              make_float2(out_[j][2 * half], out_[j][2 * half + 1]);
        }
        if (warp_ == 0 && quad_ == 0) {
          params.partial_sums[partial] = make_float2(reference_[half], sum);
        }
      } else {
        T* to = static_cast<T*>(params.out) + (item.first_row + row) * params.out_stride +
                (item.first_head + head) * kHeadDim + column;
        const float factor = Normalizer(sum);
#pragma unroll
        for (int32_t j = 0; j < kColumns / 8; ++j) {
          *reinterpret_cast<uint32_t*>(to + j * 8) = Pack<T>(
              __fmul_rn(out_[j][2 * half], factor), __fmul_rn(out_[j][2 * half + 1], factor));
        }
      }
    }
  }

 private:
  typename Shape::Exchange& exchange_;
  const int32_t warp_;
  const int32_t lane_;
  const int32_t group_;
  const int32_t quad_;
  uint32_t queries_[kDepth][4];
  float scores_[kKeys / 8][4];
  float out_[kColumns / 8][4];
  float reference_[2];
  float sum_[2];
  float rescale_[2];
  int32_t first_key_[2];
  int32_t last_key_[2];
};

}  // namespace ringserve::cuda
