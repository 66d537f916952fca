// Tiles from the pool to shared memory by cp.async, for the portable kernels.
#pragma once

#include <cstdint>

#include "kernels/attention_cuda_params.cuh"
#include "kernels/cuda_util.cuh"
#include "kernels/rope_cuda.cuh"

namespace ringserve::cuda {

// Keys (or values: offset value_offset) of tile `tile` of an item. What lies outside the item's
// keys becomes zeros and is not read.
template <int32_t kHeadDim, int32_t kThreads, bool kGeneral>
__device__ __forceinline__ void LoadTile(const AttentionCudaParams& params,
                                         const AttentionItem& item,
                                         int32_t tile,
                                         int64_t offset,
                                         uint32_t to) {
  constexpr int32_t kTile = TileKeys(kHeadDim);
  constexpr int32_t kPieces = kHeadDim / 8;
  const int32_t head_dim = HeadDim<kHeadDim, kGeneral>(params);
  const std::byte* plane =
      params.pool + params.layer_offset + item.kv_head * params.plane_bytes + offset;
  const int32_t in_block = (1 << params.block_shift) - 1;
#pragma unroll 4
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < kTile * kPieces; i += kThreads) {
    const int32_t row = i / kPieces;
    const int32_t piece = i % kPieces;
    const int32_t key = tile * kTile + row;
    const bool valid =
        key >= item.key_begin && key < item.key_end && (!kGeneral || piece * 8 < head_dim);
    const std::byte* from = params.pool;
    if (valid) {
      const int32_t place = key + item.base_in_block;
      const int32_t block = params.blocks[item.first_block + (place >> params.block_shift)];
      from = plane + block * params.block_bytes + ((place & in_block) * head_dim + piece * 8) * 2;
    }
    CopyAsync16(to + TileOffset<kTile>(row, piece), from, valid);
  }
}

// The same for tile `tile` of an item's sinks.
template <int32_t kHeadDim, int32_t kThreads>
__device__ __forceinline__ void LoadSinkTile(const AttentionCudaParams& params,
                                             const AttentionItem& item,
                                             int32_t tile,
                                             int64_t offset,
                                             uint32_t to) {
  constexpr int32_t kTile = TileKeys(kHeadDim);
  constexpr int32_t kPieces = kHeadDim / 8;
  const std::byte* plane = params.pool + item.sink_block * params.block_bytes +
                           params.layer_offset + item.kv_head * params.plane_bytes + offset;
#pragma unroll 4
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < kTile * kPieces; i += kThreads) {
    const int32_t row = i / kPieces;
    const int32_t piece = i % kPieces;
    const int32_t key = tile * kTile + row;
    const bool valid = key < item.num_sinks && piece * 8 < params.head_dim;
    CopyAsync16(to + TileOffset<kTile>(row, piece),
                valid ? plane + (key * params.head_dim + piece * 8) * 2 : params.pool,
                valid);
  }
}

// Rotates the keys of a sink tile in shared memory. All `kThreads` threads call it between two
// barriers.
template <typename T, int32_t kHeadDim, int32_t kThreads>
__device__ __forceinline__ void RotateSinks(const AttentionCudaParams& params,
                                            const AttentionItem& item,
                                            int32_t tile,
                                            uint8_t* keys) {
  constexpr int32_t kTile = TileKeys(kHeadDim);
  const int32_t half = params.head_dim / 2;
  const int32_t words = half / 2;  // of two elements
  const int32_t count = min(item.num_sinks - tile * kTile, kTile);
  const auto place = [&](int32_t row, int32_t column) {
    return reinterpret_cast<uint32_t*>(keys + TileOffset<kTile>(row, column / 8) + column % 8 * 2);
  };
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < count * words; i += kThreads) {
    const int32_t row = i / words;
    const int32_t column = i % words * 2;
    const float4 angle = *reinterpret_cast<const float4*>(
        params.angles +
        static_cast<int64_t>(item.sink_angle_row + tile * kTile + row) * params.head_dim +
        2 * column);
    uint32_t* low_word = place(row, column);
    uint32_t* high_word = place(row, half + column);
    const RotatedPairs<T> pairs(Unpack<T>(*low_word), Unpack<T>(*high_word), angle);
    *low_word = pairs.low;
    *high_word = pairs.high;
  }
}

// The row of the step that is row `row` of an item.
template <bool kGeneral>
__device__ __forceinline__ int64_t StepRow(const AttentionCudaParams& params,
                                           const AttentionItem& item,
                                           int32_t row) {
  if (kGeneral && item.first_listed >= 0) {
    return params.rows[item.first_listed + row].row;
  }
  return item.first_row + row;
}

// Packed row r of an item: query r / num_heads, head r % num_heads.
template <typename T, int32_t kHeadDim, bool kGeneral>
__device__ __forceinline__ const T* QueryRow(const AttentionCudaParams& params,
                                             const AttentionItem& item,
                                             int32_t packed_row) {
  return static_cast<const T*>(params.q) +
         StepRow<kGeneral>(params, item, packed_row / item.num_heads) * params.q_stride +
         (item.first_head + packed_row % item.num_heads) * HeadDim<kHeadDim, kGeneral>(params);
}

// How many tiles an item's sinks take.
template <int32_t kHeadDim, bool kGeneral>
__device__ __forceinline__ int32_t SinkTiles(const AttentionItem& item) {
  return kGeneral ? CeilDiv(item.num_sinks, TileKeys(kHeadDim)) : 0;
}

}  // namespace ringserve::cuda
