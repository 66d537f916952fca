// Decode attention that rotates and appends its rows (attention_decode_sm90_cuda.cu): what the
// kernel before made of a row comes in front of the item's keys, so as not to wait behind them, and
// each warp takes what it alone reads.
#pragma once

#include <cstdint>

#include "kernels/attention_append_cuda.cuh"
#include "kernels/attention_decode_cuda.cuh"
#include "kernels/attention_tma_cuda.cuh"

namespace ringserve::cuda::decode {

inline constexpr int32_t kScoresBarrier = 1;  // of the warps that make probabilities

// In shared memory, beside the queries: those are as many floats as the heads have dimensions
// before they are rotated, and half as many bytes after.
template <int32_t kHeadDim>
struct RawRow {
  alignas(16) float key[kHeadDim];
  float value[kHeadDim];
  float angles[kHeadDim];
};

// One thread; `full` is given all bytes.
template <int32_t kHeadDim>
__device__ __forceinline__ void BringRow(const AppendedRows& rows,
                                         const AttentionItem& item,
                                         TransactionBarrier& full,
                                         uint8_t* queries,
                                         RawRow<kHeadDim>& raw) {
  constexpr uint32_t kBytes = kHeadDim * sizeof(float);
  const AppendedRow<kHeadDim> row(rows, item.first_row);
  const uint32_t query_bytes = static_cast<uint32_t>(item.num_heads) * kBytes;
  full.ArriveExpecting(query_bytes + 3 * kBytes);
  LoadBulk(full, SharedAddress(queries), row.query(item.first_head), query_bytes);
  LoadBulk(full, SharedAddress(raw.key), row.key(item.kv_head), kBytes);
  LoadBulk(full, SharedAddress(raw.value), row.value(item.kv_head), kBytes);
  LoadBulk(full, SharedAddress(raw.angles), row.angles(), kBytes);
}

template <typename T, int32_t kHeadDim>
__device__ __forceinline__ RotatedPairs<T> Rotated(const float* head,
                                                   const RawRow<kHeadDim>& raw,
                                                   int32_t i) {
  return {*reinterpret_cast<const float2*>(head + i),
          *reinterpret_cast<const float2*>(head + kHeadDim / 2 + i),
          *reinterpret_cast<const float4*>(raw.angles + 2 * i)};
}

// In place, by the warps that make probabilities: they alone read queries.
template <typename T, int32_t kHeadDim>
__device__ __forceinline__ void RotateQueries(const AttentionItem& item,
                                              const RawRow<kHeadDim>& raw,
                                              uint8_t* queries) {
  constexpr int32_t kUnits = kHeadDim / 4;
  constexpr int32_t kEach = kDecodeRows * kUnits / kDecodeThreads;
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const auto* heads = reinterpret_cast<const float*>(queries);
  RotatedPairs<T> pairs[kEach];
#pragma unroll
  for (int32_t e = 0; e < kEach; ++e) {
    const int32_t unit = e * kDecodeThreads + thread;
    if (unit < item.num_heads * kUnits) {
      pairs[e] = Rotated<T, kHeadDim>(heads + unit / kUnits * kHeadDim, raw, unit % kUnits * 2);
    }
  }
  NamedBarrier(kScoresBarrier, kDecodeThreads);
#pragma unroll
  for (int32_t e = 0; e < kEach; ++e) {
    const int32_t unit = e * kDecodeThreads + thread;
    if (unit < item.num_heads * kUnits) {
      auto* to =
          reinterpret_cast<uint32_t*>(queries) + unit / kUnits * (kHeadDim / 2) + unit % kUnits;
      to[0] = pairs[e].low;
      to[kHeadDim / 4] = pairs[e].high;
    }
  }
  NamedBarrier(kScoresBarrier, kDecodeThreads);
}

// Where in the item's last tile its row's own key lies; -1: the item has it not.
template <int32_t kHeadDim>
__device__ __forceinline__ int32_t PlaceInLastTile(const AttentionItem& item) {
  const int32_t key = item.key_end - 1;
  return key == item.row_position ? key % TileKeys(kHeadDim) : -1;
}

// Columns i and i + 1 of a row of a tile.
template <int32_t kHeadDim>
__device__ __forceinline__ void StorePair(uint8_t* tile, int32_t row, int32_t i, uint32_t pair) {
  *reinterpret_cast<uint32_t*>(tile + TileOffset<TileKeys(kHeadDim)>(row, i / 8) + i % 8 * 2) =
      pair;
}

// The key that the item's row appends, if it is among the item's: one of the warps that make
// probabilities has all that reads it.
template <typename T, int32_t kHeadDim>
class OwnKey {
 public:
  // Asks for the slot long before it is needed.
  __device__ __forceinline__ void Begin(const AppendedRows& rows,
                                        const AttentionItem& item,
                                        const RawRow<kHeadDim>& raw) {
    constexpr int32_t kKeys = DecodeScores<T, kHeadDim>::kKeys;
    const DecodeThread me;
    place_ = PlaceInLastTile<kHeadDim>(item);
    is_mine_ = place_ >= 0 && place_ / kKeys == me.warp && me.lane * 2 < kHeadDim / 2;
    if (is_mine_) {
      pairs_ = Rotated<T, kHeadDim>(raw.key, raw, me.lane * 2);
      slot_ = AppendedRow<kHeadDim>(rows, item.first_row).slot();
    }
  }

  // To the last tile and the pool. All lanes of a warp.
  __device__ __forceinline__ void Store(const AttentionCudaParams& params,
                                        const AttentionItem& item,
                                        uint8_t* keys) const {
    if (is_mine_) {
      constexpr int32_t kHalf = kHeadDim / 2;
      const int32_t i = DecodeThread().lane * 2;
      std::byte* pool = KeyInPool<kHeadDim>(params, item.kv_head, slot_);
      StorePair<kHeadDim>(keys, place_, i, pairs_.low);
      StorePair<kHeadDim>(keys, place_, kHalf + i, pairs_.high);
      *reinterpret_cast<uint32_t*>(pool + i * 2) = pairs_.low;
      *reinterpret_cast<uint32_t*>(pool + (kHalf + i) * 2) = pairs_.high;
    }
    __syncwarp();
  }

 private:
  RotatedPairs<T> pairs_;
  int64_t slot_ = 0;
  int32_t place_ = -1;
  bool is_mine_ = false;
};

// The same of the value: every warp that makes output has its columns.
template <typename T, int32_t kHeadDim>
class OwnValue {
 public:
  __device__ __forceinline__ void Begin(const AppendedRows& rows,
                                        const AttentionItem& item,
                                        const RawRow<kHeadDim>& raw) {
    constexpr int32_t kColumns = DecodeOutput<T, kHeadDim>::kColumns;
    const DecodeThread me;
    place_ = PlaceInLastTile<kHeadDim>(item);
    column_ = me.warp * kColumns + me.lane * 2;
    is_mine_ = place_ >= 0 && me.lane * 2 < kColumns;
    if (is_mine_) {
      pair_ = Pack<T>(raw.value[column_], raw.value[column_ + 1]);
      slot_ = AppendedRow<kHeadDim>(rows, item.first_row).slot();
    }
  }

  __device__ __forceinline__ void Store(const AttentionCudaParams& params,
                                        const AttentionItem& item,
                                        uint8_t* values) const {
    if (is_mine_) {
      std::byte* pool = KeyInPool<kHeadDim>(params, item.kv_head, slot_) + params.value_offset;
      StorePair<kHeadDim>(values, place_, column_, pair_);
      *reinterpret_cast<uint32_t*>(pool + column_ * 2) = pair_;
    }
    __syncwarp();
  }

 private:
  uint32_t pair_ = 0;
  int64_t slot_ = 0;
  int32_t place_ = -1;
  int32_t column_ = 0;
  bool is_mine_ = false;
};

}  // namespace ringserve::cuda::decode
