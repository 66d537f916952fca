// A decode item's arithmetic: four warps take a key tile together. Each warp computes the scores of
// a quarter of the keys for all 16 rows (the heads of a GQA group, and the queries if there are
// several), the warps agree on the tile's maxima and publish the probabilities, and four warps (the
// same, or others that work beside them) each accumulate a quarter of the output columns over all
// keys: the order along keys is that of the prefill kernels.
#pragma once

#include <cstdint>

#include "kernels/attention_cuda_params.cuh"
#include "kernels/attention_rules_cuda.cuh"
#include "kernels/cuda_util.cuh"

namespace ringserve::cuda {

inline constexpr int32_t kDecodeWarps = 4;
inline constexpr int32_t kDecodeThreads = 32 * kDecodeWarps;

template <int32_t kHeadDim>
struct DecodeShape {
  static constexpr int32_t kTile = TileKeys(kHeadDim);
  static constexpr int32_t kPanels = CeilDiv(kHeadDim, kPanelColumns);
  static constexpr int32_t kTileBytes = kPanels * kTile * kPanelRowBytes;
  static constexpr int32_t kQueryBytes = kDecodeRows * kHeadDim * 2;

  // What the warps tell each other about one tile.
  struct Exchange {
    alignas(1024) uint8_t probabilities[kDecodeRows * kTile * 2];
    float max[kDecodeRows][kDecodeWarps];
    float sum[kDecodeRows][4][kDecodeWarps];  // of lane t of the row, by quarter
    float rescale[kDecodeRows];
    float reference[kDecodeRows];
  };
};

// Place of a thread among the four warps of its role.
struct DecodeThread {
  int32_t warp = static_cast<int32_t>(threadIdx.x) / 32 % kDecodeWarps;
  int32_t lane = static_cast<int32_t>(threadIdx.x) % 32;
  int32_t group = lane / 4;  // rows group and group + 8
  int32_t quad = lane % 4;
};

// From keys to probabilities.
template <typename T, int32_t kHeadDim>
class DecodeScores {
 public:
  using Shape = DecodeShape<kHeadDim>;
  using Exchange = typename Shape::Exchange;
  static constexpr int32_t kTile = Shape::kTile;
  static constexpr int32_t kKeys = kTile / kDecodeWarps;
  static constexpr int32_t kDepth = kHeadDim / 16;

  // Queries lie at `queries` as [16, kHeadDim] without padding.
  __device__ __forceinline__ void Begin(const AttentionItem& item,
                                        int32_t window,
                                        uint32_t queries) {
#pragma unroll
    for (int32_t k = 0; k < kDepth; ++k) {
      const int32_t row = (me_.lane & 7) + ((me_.lane >> 3) & 1) * 8;
      LoadMatrix4(queries_[k], queries + (row * kHeadDim + k * 16 + (me_.lane >> 4) * 8) * 2);
    }
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      const int32_t row = item.row_position + (me_.group + half * 8) / item.num_heads;
      last_key_[half] = min(row, item.key_end - 1);
      first_key_[half] = max(row - window + 1, item.key_begin);
      reference_[half] = kNegativeInfinity;
    }
    has_upper_ = item.num_rows * item.num_heads > 8;
  }

  __device__ __forceinline__ void Scores(uint32_t keys) {
#pragma unroll
    for (int32_t j = 0; j < kKeys / 8; ++j) {
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        scores_[j][i] = 0;
      }
    }
    // Keys are read a step ahead: each product waits for the one before it.
    uint32_t b[2][kKeys / 16][4];
    LoadKeys(keys, 0, b[0]);
#pragma unroll
    for (int32_t k = 0; k < kDepth; ++k) {
      if (k + 1 < kDepth) {
        LoadKeys(keys, k + 1, b[(k + 1) % 2]);
      }
#pragma unroll
      for (int32_t j = 0; j < kKeys / 16; ++j) {
        const uint32_t(&pair)[4] = b[k % 2][j];
        MatrixProduct<T>(scores_[2 * j], queries_[k], pair[0], pair[1]);
        MatrixProduct<T>(scores_[2 * j + 1], queries_[k], pair[2], pair[3]);
      }
    }
  }

  // Before the first tile of a second split.
  __device__ __forceinline__ void BeginSplit() {
    reference_[0] = kNegativeInfinity;
    reference_[1] = kNegativeInfinity;
  }

  __device__ __forceinline__ void Cap(float cap_scale) {
#pragma unroll
    for (int32_t j = 0; j < kKeys / 8; ++j) {
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        scores_[j][i] = Capped(scores_[j][i], cap_scale);
      }
    }
  }

  // tile_key: the first key of the tile.
  __device__ __forceinline__ void AddBias(const AttentionItem& item,
                                          const AttentionCudaParams& params,
                                          int32_t tile_key) {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      const int32_t packed_row = me_.group + half * 8;
      const int32_t head = item.first_head + packed_row % item.num_heads;
      const int32_t position = item.text_position + packed_row / item.num_heads;
#pragma unroll
      for (int32_t j = 0; j < kKeys / 8; ++j) {
#pragma unroll
        for (int32_t i = 0; i < 2; ++i) {
          float& score = scores_[j][2 * half + i];
          const int32_t key = tile_key + me_.warp * kKeys + j * 8 + me_.quad * 2 + i;
          score = Biased(score, params, head, key, position);
        }
      }
    }
  }

  // Every row sees the first num_keys keys of the tile.
  __device__ __forceinline__ void MaskBehind(int32_t num_keys) {
#pragma unroll
    for (int32_t j = 0; j < kKeys / 8; ++j) {
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        if (me_.warp * kKeys + j * 8 + me_.quad * 2 + (i & 1) >= num_keys) {
          scores_[j][i] = kNegativeInfinity;
        }
      }
    }
  }

  // tile_key: the first key of the tile.
  __device__ __forceinline__ void Mask(int32_t tile_key) {
#pragma unroll
    for (int32_t j = 0; j < kKeys / 8; ++j) {
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        const int32_t key = tile_key + me_.warp * kKeys + j * 8 + me_.quad * 2 + (i & 1);
        if (key > last_key_[i >> 1] || key < first_key_[i >> 1]) {
          scores_[j][i] = kNegativeInfinity;
        }
      }
    }
  }

  __device__ __forceinline__ void PublishMax(Exchange& exchange) const {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      if (half == 1 && !has_upper_) {
        break;
      }
      float largest = kNegativeInfinity;
#pragma unroll
      for (int32_t j = 0; j < kKeys / 8; ++j) {
        largest = fmaxf(largest, fmaxf(scores_[j][2 * half], scores_[j][2 * half + 1]));
      }
      largest = QuadMax(largest);
      if (me_.quad == 0) {
        exchange.max[me_.group + 8 * half][me_.warp] = largest;
      }
    }
  }

  // After a barrier that follows PublishMax. What belongs to rows that the item has not stays as it
  // was: it reaches those rows of the output alone.
  __device__ __forceinline__ void PublishProbabilities(Exchange& exchange, float scale_log2) {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      if (half == 1 && !has_upper_) {
        break;
      }
      const int32_t row = me_.group + 8 * half;
      const float4 largest = *reinterpret_cast<const float4*>(exchange.max[row]);
      const float next =
          NextReference(reference_[half],
                        fmaxf(fmaxf(largest.x, largest.y), fmaxf(largest.z, largest.w)),
                        scale_log2);
      if (me_.warp == 0 && me_.quad == 0) {
        exchange.rescale[row] = Rescale(reference_[half], next, scale_log2);
        exchange.reference[row] = next;
      }
      reference_[half] = next;
      const float scaled = ScaledReference(next, scale_log2);
      float sum = 0;
#pragma unroll
      for (int32_t j = 0; j < kKeys / 8; ++j) {
        const float p0 = Probability(scores_[j][2 * half], scale_log2, scaled);
        const float p1 = Probability(scores_[j][2 * half + 1], scale_log2, scaled);
        sum = __fadd_rn(sum, p0);
        sum = __fadd_rn(sum, p1);
        const int32_t column = me_.warp * kKeys + j * 8;
        *reinterpret_cast<uint32_t*>(exchange.probabilities +
                                     TileOffset<kDecodeRows>(row, column / 8) + me_.quad * 4) =
            Pack<T>(p0, p1);
      }
      exchange.sum[row][me_.quad][me_.warp] = sum;
    }
  }

 private:
  // For step k along head_dim.
  __device__ __forceinline__ void LoadKeys(uint32_t keys,
                                           int32_t k,
                                           uint32_t (&b)[kKeys / 16][4]) const {
    const int32_t key = me_.warp * kKeys + (me_.lane & 7) + (me_.lane >> 4) * 8;
#pragma unroll
    for (int32_t j = 0; j < kKeys / 16; ++j) {
      LoadMatrix4(b[j], keys + TileOffset<kTile>(key + j * 16, k * 2 + ((me_.lane >> 3) & 1)));
    }
  }

  DecodeThread me_;
  bool has_upper_ = false;  // rows 8 to 15
  uint32_t queries_[kDepth][4];
  float scores_[kKeys / 8][4];
  float reference_[2];
  int32_t first_key_[2];
  int32_t last_key_[2];
};

// From probabilities and values to the output.
template <typename T, int32_t kHeadDim, bool kGeneral = false>
class DecodeOutput {
 public:
  using Shape = DecodeShape<kHeadDim>;
  using Exchange = typename Shape::Exchange;
  static constexpr int32_t kTile = Shape::kTile;
  static constexpr int32_t kColumns = kHeadDim / kDecodeWarps;

  __device__ __forceinline__ void Begin() {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
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

  // After the last tile of sinks, if there are others: their split is kept, to be folded by Finish.
  __device__ __forceinline__ void KeepSplit() {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      kept_reference_[half] = reference_[half];
      kept_sum_[half] = QuadSum(sum_[half]);
    }
#pragma unroll
    for (int32_t j = 0; j < kColumns / 8; ++j) {
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        kept_[j][i] = out_[j][i];
      }
    }
    Begin();
  }

  // After a barrier that follows PublishProbabilities.
  __device__ __forceinline__ void Accumulate(const Exchange& exchange, uint32_t values) {
    float rescale[2];
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      const int32_t row = me_.group + 8 * half;
      const float4 sums = *reinterpret_cast<const float4*>(exchange.sum[row][me_.quad]);
      rescale[half] = exchange.rescale[row];
      reference_[half] = exchange.reference[row];
      sum_[half] = __fmaf_rn(sum_[half],
                             rescale[half],
                             __fadd_rn(__fadd_rn(sums.x, sums.y), __fadd_rn(sums.z, sums.w)));
    }
#pragma unroll
    for (int32_t j = 0; j < kColumns / 8; ++j) {
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        out_[j][i] = __fmul_rn(out_[j][i], rescale[i >> 1]);
      }
    }
    const uint32_t probabilities = SharedAddress(exchange.probabilities);
    Step steps[2];
    LoadStep(probabilities, values, 0, steps[0]);
#pragma unroll
    for (int32_t k = 0; k < kTile / 16; ++k) {
      if (k + 1 < kTile / 16) {
        LoadStep(probabilities, values, k + 1, steps[(k + 1) % 2]);
      }
      const Step& step = steps[k % 2];
#pragma unroll
      for (int32_t j = 0; j < kColumns / 8; ++j) {
        const uint32_t* b = step.values[j / 2] + j % 2 * 2;
        MatrixProduct<T>(out_[j], step.probabilities, b[0], b[1]);
      }
    }
  }

  // Writes `out`, or the item's partial results. kept: KeepSplit was called.
  __device__ __forceinline__ void Finish(const AttentionItem& item,
                                         const AttentionCudaParams& params,
                                         bool kept = false) {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      float sum = QuadSum(sum_[half]);
      if constexpr (kGeneral) {
        if (kept) {
          FoldKept(half, params.scale_log2, sum);
        }
      }
      const int32_t packed_row = me_.group + 8 * half;
      const int32_t row = packed_row / item.num_heads;
      const int32_t head = packed_row % item.num_heads;
      if (row >= item.num_rows) {
        continue;
      }
      const int32_t column = me_.warp * kColumns + me_.quad * 2;
      if (item.first_partial >= 0) {
        const int64_t partial =
            item.first_partial + static_cast<int64_t>(row) * item.partial_stride + head;
        float* to = params.partial_out + partial * kHeadDim + column;
#pragma unroll
        for (int32_t j = 0; j < kColumns / 8; ++j) {
          *reinterpret_cast<float2*>(to + j * 8) =
              make_float2(out_[j][2 * half], out_[j][2 * half + 1]);
        }
        if (me_.warp == 0 && me_.quad == 0) {
          params.partial_sums[partial] = make_float2(reference_[half], sum);
        }
        continue;
      }
      const int32_t head_dim = HeadDim<kHeadDim, kGeneral>(params);
      T* to = static_cast<T*>(params.out) + (item.first_row + row) * params.out_stride +
              (item.first_head + head) * head_dim + column;
      if constexpr (kGeneral) {
        if (params.sink_logits != nullptr) {
          sum = __fadd_rn(
              sum,
              LearnedSink(
                  params.sink_logits[item.first_head + head], reference_[half], params.scale_log2));
        }
      }
      const float factor = Normalizer(sum);
#pragma unroll
      for (int32_t j = 0; j < kColumns / 8; ++j) {
        if (!kGeneral || me_.warp * kColumns + j * 8 < head_dim) {
          *reinterpret_cast<uint32_t*>(to + j * 8) = Pack<T>(
              __fmul_rn(out_[j][2 * half], factor), __fmul_rn(out_[j][2 * half + 1], factor));
        }
      }
    }
  }

 private:
  // Operands of a step along the keys, read one ahead.
  struct Step {
    uint32_t probabilities[4];
    uint32_t values[CeilDiv(kColumns, 16)][4];
  };

  __device__ __forceinline__ void LoadStep(uint32_t probabilities,
                                           uint32_t values,
                                           int32_t k,
                                           Step& step) const {
    const int32_t row = (me_.lane & 7) + ((me_.lane >> 3) & 1) * 8;
    LoadMatrix4(step.probabilities,
                probabilities + TileOffset<kDecodeRows>(row, 2 * k + (me_.lane >> 4)));
    // Two columns of eight at a time; with an odd number of them the last load repeats one.
#pragma unroll
    for (int32_t j = 0; j < kColumns / 8; j += 2) {
      const int32_t pair = (j + 1 < kColumns / 8) ? (me_.lane >> 4) : 0;
      LoadMatrix4Transposed(
          step.values[j / 2],
          values + TileOffset<kTile>(k * 16 + row, me_.warp * (kColumns / 8) + j + pair));
    }
  }

  // The kept split and this one, into what Finish writes.
  __device__ __forceinline__ void FoldKept(int32_t half, float scale_log2, float& sum) {
    const Folding fold = Fold(kept_reference_[half], reference_[half], scale_log2);
    reference_[half] = fold.reference;
    sum = Folded(fold, kept_sum_[half], sum);
#pragma unroll
    for (int32_t j = 0; j < kColumns / 8; ++j) {
#pragma unroll
      for (int32_t i = 2 * half; i < 2 * half + 2; ++i) {
        out_[j][i] = Folded(fold, kept_[j][i], out_[j][i]);
      }
    }
  }

  DecodeThread me_;
  float out_[kColumns / 8][4];
  float reference_[2];
  float sum_[2];
  float kept_[kColumns / 8][4];
  float kept_reference_[2];
  float kept_sum_[2];
};

// Folds the partial results of a merge's rows in order. All of kDecodeThreads threads call this
// after every one of its items has written. For few sources: each thread follows every fold.
template <typename T, int32_t kHeadDim>
__device__ __forceinline__ void MergeRows(const AttentionCudaParams& params,
                                          const AttentionMerge& merge,
                                          int32_t thread) {
  constexpr int32_t kRowThreads = kHeadDim / 4;
  constexpr int32_t kRows = kDecodeThreads / kRowThreads;
  constexpr int32_t kBatch = 8;
  const int32_t column = thread % kRowThreads * 4;
  for (int32_t row = thread / kRowThreads;
       row < merge.num_rows * merge.num_heads && thread < kRows * kRowThreads;
       row += kRows) {
    const int32_t offset = merge.PartialOffset(row);
    float4 out = make_float4(0, 0, 0, 0);
    float sum = 0;
    float reference = kNegativeInfinity;
    for (int32_t first = 0; first < merge.num_sources; first += kBatch) {
      float4 values[kBatch];
      float2 parts[kBatch];
#pragma unroll
      for (int32_t i = 0; i < kBatch; ++i) {
        const bool valid = first + i < merge.num_sources;
        const int64_t partial =
            params.sources[merge.first_source + (valid ? first + i : 0)] + offset;
        parts[i] = __ldcg(params.partial_sums + partial);
        values[i] = __ldcg(
            reinterpret_cast<const float4*>(params.partial_out + partial * kHeadDim + column));
      }
#pragma unroll
      for (int32_t i = 0; i < kBatch; ++i) {
        if (first + i < merge.num_sources) {
          const Folding fold = Fold(reference, parts[i].x, params.scale_log2);
          out.x = Folded(fold, out.x, values[i].x);
          out.y = Folded(fold, out.y, values[i].y);
          out.z = Folded(fold, out.z, values[i].z);
          out.w = Folded(fold, out.w, values[i].w);
          sum = Folded(fold, sum, parts[i].y);
          reference = fold.reference;
        }
      }
    }
    const float factor = Normalizer(sum);
    T* to = static_cast<T*>(params.out) +
            (merge.first_row + row / merge.num_heads) * params.out_stride +
            (merge.first_head + row % merge.num_heads) * kHeadDim + column;
    *reinterpret_cast<uint2*>(to) =
        make_uint2(Pack<T>(__fmul_rn(out.x, factor), __fmul_rn(out.y, factor)),
                   Pack<T>(__fmul_rn(out.z, factor), __fmul_rn(out.w, factor)));
  }
}

}  // namespace ringserve::cuda
