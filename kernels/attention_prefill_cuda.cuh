// What a thread of a prefill kernel holds and does between matrix products: lane 4g + t of a warp
// has rows g and g + 8 of the warp's 16, columns 8j + 2t and 8j + 2t + 1 (register 4j + 2 * half +
// column), which is how mma.m16n8k16 and wgmma.m64nNk16 both lay out their results.
#pragma once

#include <cstdint>

#include "kernels/attention_cuda_params.cuh"
#include "kernels/attention_rules_cuda.cuh"
#include "kernels/cuda_util.cuh"

namespace ringserve::cuda {

template <typename T, int32_t kHeadDim>
struct PrefillRowsState {
  static constexpr int32_t kTile = TileKeys(kHeadDim);
  static constexpr int32_t kScores = kTile / 2;
  static constexpr int32_t kOutputs = kHeadDim / 2;

  float scores[kScores];
  float out[kOutputs];
  uint32_t probabilities[kTile / 4];  // 16-column step k: registers 4k to 4k + 3
  float reference[2];
  float sum[2];
  float rescale[2];
  // Of the split that ended last, until it is folded or finished.
  float ended_reference[2];
  float ended_sum[2];
  float folded_reference[2];
  float folded_sum[2];
  int32_t first_key[2];
  int32_t last_key[2];

  // The keys that this thread's rows see. first_row: packed row of the upper one; packed row r is
  // query r / heads.
  __device__ __forceinline__ void SetLimits(const AttentionItem& item,
                                            int32_t window,
                                            int32_t first_row,
                                            int32_t heads) {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      const int32_t row = item.row_position + (first_row + 8 * half) / heads;
      last_key[half] = min(row, item.key_end - 1);
      first_key[half] = max(row - window + 1, item.key_begin);
    }
  }

  // For rows that see every key.
  __device__ __forceinline__ void SetLimitsOfAll(const AttentionItem& item) {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      last_key[half] = item.key_end - 1;
      first_key[half] = item.key_begin;
    }
  }

  // Before the first split of an item.
  __device__ __forceinline__ void ClearFolded() {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      folded_reference[half] = kNegativeInfinity;
      folded_sum[half] = 0;
    }
  }

  // Before the first tile of a split; the last one's state stays behind as `ended`.
  __device__ __forceinline__ void BeginSplit() {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      ended_reference[half] = reference[half];
      ended_sum[half] = sum[half];
      reference[half] = kNegativeInfinity;
      sum[half] = 0;
    }
  }

  // Before the first product with values of a split.
  __device__ __forceinline__ void ClearOutput() {
#pragma unroll
    for (int32_t i = 0; i < kOutputs; ++i) {
      out[i] = 0;
    }
  }

  // The scores of the warp's 16 rows, from first_row on of a tile of kRows queries, by mma.sync:
  // the same bits as wgmma's.
  template <int32_t kRows>
  __device__ __forceinline__ void ScoresByWarp(uint32_t queries, int32_t first_row, uint32_t keys) {
    const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32;
#pragma unroll
    for (float& score : scores) {
      score = 0;
    }
    auto& tiles = reinterpret_cast<float(&)[kTile / 8][4]>(scores);
#pragma unroll
    for (int32_t k = 0; k < kHeadDim / 16; ++k) {
      uint32_t a[4];
      const int32_t row = first_row + (lane & 7) + ((lane >> 3) & 1) * 8;
      LoadMatrix4(a, queries + TileOffset<kRows>(row, 2 * k + (lane >> 4)));
#pragma unroll
      for (int32_t j = 0; j < kTile / 16; ++j) {
        uint32_t b[4];
        const int32_t key = j * 16 + (lane & 7) + (lane >> 4) * 8;
        LoadMatrix4(b, keys + TileOffset<kTile>(key, 2 * k + ((lane >> 3) & 1)));
        MatrixProduct<T>(tiles[2 * j], a, b[0], b[1]);
        MatrixProduct<T>(tiles[2 * j + 1], a, b[2], b[3]);
      }
    }
  }

  // tile_column: the key of this lane's first column.
  __device__ __forceinline__ void Mask(int32_t tile_column) {
#pragma unroll
    for (int32_t i = 0; i < kScores; ++i) {
      const int32_t key = tile_column + i / 4 * 8 + (i & 1);
      if (key > last_key[(i >> 1) & 1] || key < first_key[(i >> 1) & 1]) {
        scores[i] = kNegativeInfinity;
      }
    }
  }

  // tile_column: this lane's first column in the tile, of whose keys every row sees the first
  // num_keys.
  __device__ __forceinline__ void MaskBehind(int32_t tile_column, int32_t num_keys) {
#pragma unroll
    for (int32_t i = 0; i < kScores; ++i) {
      if (tile_column + i / 4 * 8 + (i & 1) >= num_keys) {
        scores[i] = kNegativeInfinity;
      }
    }
  }

  // first_row: packed row of the upper one. tile_column: the key of this lane's first column.
  __device__ __forceinline__ void AddBias(const AttentionItem& item,
                                          const AttentionCudaParams& params,
                                          int32_t first_row,
                                          int32_t tile_column) {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      const int32_t row = (first_row + 8 * half) / item.num_heads;
      const int32_t head = item.first_head + (first_row + 8 * half) % item.num_heads;
      int32_t position = item.text_position + row;
      if (item.first_listed >= 0 && row < item.num_rows) {
        position = params.rows[item.first_listed + row].text_position;
      }
#pragma unroll
      for (int32_t i = 2 * half; i < kScores; i += 4) {
        scores[i] = Biased(scores[i], params, head, tile_column + i / 4 * 8, position);
        scores[i + 1] = Biased(scores[i + 1], params, head, tile_column + i / 4 * 8 + 1, position);
      }
    }
  }

  __device__ __forceinline__ void Cap(float cap_scale) {
#pragma unroll
    for (float& score : scores) {
      score = Capped(score, cap_scale);
    }
  }

  // Turns the scores of a tile into probabilities and updates everything but `out`.
  __device__ __forceinline__ void Softmax(float scale_log2) {
    float scaled[2];
    float largest[2];
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      // Four chains a row: one would wait for itself.
      float chains[4];
#pragma unroll
      for (int32_t i = 0; i < kScores; i += 4) {
        const float pair = fmaxf(scores[i + 2 * half], scores[i + 2 * half + 1]);
        chains[i / 4 % 4] = i < 16 ? pair : fmaxf(chains[i / 4 % 4], pair);
      }
      largest[half] = fmaxf(fmaxf(chains[0], chains[1]), fmaxf(chains[2], chains[3]));
    }
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      const float next = NextReference(reference[half], QuadMax(largest[half]), scale_log2);
      rescale[half] = Rescale(reference[half], next, scale_log2);
      reference[half] = next;
      scaled[half] = ScaledReference(next, scale_log2);
    }
#pragma unroll
    for (int32_t i = 0; i < kScores; ++i) {
      scores[i] = Probability(scores[i], scale_log2, scaled[(i >> 1) & 1]);
    }
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      sum[half] = __fmaf_rn(sum[half], rescale[half], TileSum(half));
    }
  }

  __device__ __forceinline__ void PackProbabilities() {
#pragma unroll
    for (int32_t i = 0; i < kScores / 2; ++i) {
      probabilities[i] = Pack<T>(scores[2 * i], scores[2 * i + 1]);
    }
  }

  // Most tiles of most warps change no reference value, and the output need not be touched (exact
  // either way).
  __device__ __forceinline__ bool NeedsRescaling() const {
    return __any_sync(0xffffffffU, rescale[0] != 1.0F || rescale[1] != 1.0F);
  }

  __device__ __forceinline__ void RescaleOutput() {
#pragma unroll
    for (int32_t i = 0; i < kOutputs; ++i) {
      out[i] = __fmul_rn(out[i], rescale[(i >> 1) & 1]);
    }
  }

  // After the last product of the split that ended: `out` and its sums are folded into `total`,
  // this thread's float4s at a stride of `threads`; `first` if nothing is there yet.
  __device__ __forceinline__ void FoldSplit(float scale_log2,
                                            float4* total,
                                            int32_t threads,
                                            bool first) {
    Folding folds[2];
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      folds[half] = Fold(folded_reference[half], ended_reference[half], scale_log2);
      folded_sum[half] = Folded(folds[half], folded_sum[half], QuadSum(ended_sum[half]));
      folded_reference[half] = folds[half].reference;
    }
#pragma unroll
    for (int32_t i = 0; i < kOutputs / 4; ++i) {
      const float4 before = first ? make_float4(0, 0, 0, 0) : total[i * threads];
      total[i * threads] = make_float4(Folded(folds[0], before.x, out[4 * i]),
                                       Folded(folds[0], before.y, out[4 * i + 1]),
                                       Folded(folds[1], before.z, out[4 * i + 2]),
                                       Folded(folds[1], before.w, out[4 * i + 3]));
    }
  }

  // After folding the last split into what `total` holds if it holds anything: `out` before it is
  // normalized.
  __device__ __forceinline__ void FoldRows(float scale_log2,
                                           const float4* total,
                                           int32_t threads,
                                           bool first) {
    if (first) {
#pragma unroll
      for (int32_t half = 0; half < 2; ++half) {
        ended_sum[half] = QuadSum(ended_sum[half]);
      }
    } else {
      Folding folds[2];
#pragma unroll
      for (int32_t half = 0; half < 2; ++half) {
        folds[half] = Fold(folded_reference[half], ended_reference[half], scale_log2);
        ended_sum[half] = Folded(folds[half], folded_sum[half], QuadSum(ended_sum[half]));
        ended_reference[half] = folds[half].reference;
      }
#pragma unroll
      for (int32_t i = 0; i < kOutputs / 4; ++i) {
        const float4 before = total[i * threads];
        out[4 * i] = Folded(folds[0], before.x, out[4 * i]);
        out[4 * i + 1] = Folded(folds[0], before.y, out[4 * i + 1]);
        out[4 * i + 2] = Folded(folds[1], before.z, out[4 * i + 2]);
        out[4 * i + 3] = Folded(folds[1], before.w, out[4 * i + 3]);
      }
    }
  }

  // Normalizes, after folding the last split.
  __device__ __forceinline__ void FinishRows(float scale_log2,
                                             const float4* total,
                                             int32_t threads,
                                             bool first) {
    FoldRows(scale_log2, total, threads, first);
    Normalize();
  }

  // Adds the learned sinks of the rows' heads to their sums.
  __device__ __forceinline__ void AddLearnedSinks(const AttentionItem& item,
                                                  const AttentionCudaParams& params,
                                                  int32_t first_row) {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      const int32_t head = item.first_head + (first_row + 8 * half) % item.num_heads;
      ended_sum[half] = __fadd_rn(
          ended_sum[half],
          LearnedSink(params.sink_logits[head], ended_reference[half], params.scale_log2));
    }
  }

  __device__ __forceinline__ void Normalize() {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      const float factor = Normalizer(ended_sum[half]);
#pragma unroll
      for (int32_t i = 0; i < kOutputs; i += 4) {
        out[i + 2 * half] = __fmul_rn(out[i + 2 * half], factor);
        out[i + 2 * half + 1] = __fmul_rn(out[i + 2 * half + 1], factor);
      }
    }
  }

  // After FoldRows: the two rows as partial results.
  __device__ __forceinline__ void StorePartial(const AttentionItem& item,
                                               const AttentionCudaParams& params,
                                               int32_t first_row,
                                               int32_t quad_lane) const {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      const int32_t row = (first_row + 8 * half) / item.num_heads;
      const int32_t head = (first_row + 8 * half) % item.num_heads;
      if (row >= item.num_rows) {
        continue;
      }
      const int64_t partial =
          item.first_partial + static_cast<int64_t>(row) * item.partial_stride + head;
      float* to = params.partial_out + partial * kHeadDim + quad_lane * 2;
#pragma unroll
      for (int32_t j = 0; j < kHeadDim / 8; ++j) {
        *reinterpret_cast<float2*>(to + j * 8) =
            make_float2(out[4 * j + 2 * half], out[4 * j + 2 * half + 1]);
      }
      if (quad_lane == 0) {
        params.partial_sums[partial] = make_float2(ended_reference[half], ended_sum[half]);
      }
    }
  }

  // Writes the two rows. The four lanes of a row exchange words so that each stores 16 bytes.
  template <bool kGeneral = false>
  __device__ __forceinline__ void Store(const AttentionItem& item,
                                        const AttentionCudaParams& params,
                                        int32_t first_row,
                                        int32_t quad_lane,
                                        int32_t heads) const {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      const int32_t packed_row = first_row + 8 * half;
      const int32_t row = packed_row / heads;
      const int32_t head = packed_row % heads;
      const int32_t head_dim = HeadDim<kHeadDim, kGeneral>(params);
      int64_t step_row = item.first_row + row;
      if constexpr (kGeneral) {
        if (item.first_listed >= 0 && row < item.num_rows) {
          step_row = params.rows[item.first_listed + row].row;
        }
      }
      T* to = static_cast<T*>(params.out) + step_row * params.out_stride +
              (item.first_head + head) * head_dim;
#pragma unroll
      for (int32_t m = 0; m < kHeadDim / 32; ++m) {
        uint32_t words[4];
#pragma unroll
        for (int32_t j = 0; j < 4; ++j) {
          const int32_t i = (4 * m + j) * 4 + 2 * half;
          words[j] = Pack<T>(out[i], out[i + 1]);
        }
        TransposeQuad(words, quad_lane);
        if (row < item.num_rows && head < item.num_heads &&
            (!kGeneral || (4 * m + quad_lane) * 8 < head_dim)) {
          *reinterpret_cast<uint4*>(to + (4 * m + quad_lane) * 8) =
              make_uint4(words[0], words[1], words[2], words[3]);
        }
      }
    }
  }

 private:
  // Of the probabilities in `scores`.
  __device__ __forceinline__ float TileSum(int32_t half) const {
    float quarters[4];
#pragma unroll
    for (int32_t q = 0; q < 4; ++q) {
      const int32_t begin = q * kScores / 4 + 2 * half;
      quarters[q] = __fadd_rn(scores[begin], scores[begin + 1]);
#pragma unroll
      for (int32_t i = begin + 4; i < (q + 1) * kScores / 4; i += 4) {
        quarters[q] = __fadd_rn(quarters[q], scores[i]);
        quarters[q] = __fadd_rn(quarters[q], scores[i + 1]);
      }
    }
    return __fadd_rn(__fadd_rn(quarters[0], quarters[1]), __fadd_rn(quarters[2], quarters[3]));
  }

  // Word j of lane t becomes word t of lane j.
  __device__ __forceinline__ static void TransposeQuad(uint32_t (&words)[4], int32_t lane) {
    const bool odd = (lane & 1) != 0;
    const bool upper = (lane & 2) != 0;
#pragma unroll
    for (int32_t i = 0; i < 4; i += 2) {
      const uint32_t got = __shfl_xor_sync(0xffffffffU, odd ? words[i] : words[i + 1], 1);
      words[i] = odd ? got : words[i];
      words[i + 1] = odd ? words[i + 1] : got;
    }
#pragma unroll
    for (int32_t i = 0; i < 2; ++i) {
      const uint32_t got = __shfl_xor_sync(0xffffffffU, upper ? words[i] : words[i + 2], 2);
      words[i] = upper ? got : words[i];
      words[i + 2] = upper ? words[i + 2] : got;
    }
  }
};

}  // namespace ringserve::cuda
