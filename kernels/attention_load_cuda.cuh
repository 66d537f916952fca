// Tiles from the pool to shared memory by cp.async, for the portable kernels.
#pragma once

#include <cstdint>

#include "kernels/attention_cuda_params.cuh"
#include "kernels/cuda_util.cuh"

namespace ringserve::cuda {

// Keys (or values: offset value_offset) of tile `tile` of an item. What lies outside the item's
// keys becomes zeros and is not read.
template <int32_t kHeadDim, int32_t kThreads>
__device__ __forceinline__ void LoadTile(const AttentionCudaParams& params,
                                         const AttentionItem& item,
                                         int32_t tile,
                                         int64_t offset,
                                         uint32_t to) {
  constexpr int32_t kTile = TileKeys(kHeadDim);
  constexpr int32_t kPieces = kHeadDim / 8;
  const std::byte* plane =
      params.pool + params.layer_offset + item.kv_head * params.plane_bytes + offset;
  const int32_t in_block = (1 << params.block_shift) - 1;
#pragma unroll 4
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < kTile * kPieces; i += kThreads) {
    const int32_t row = i / kPieces;
    const int32_t piece = i % kPieces;
    const int32_t key = tile * kTile + row;
    const bool valid = key >= item.key_begin && key < item.key_end;
    const std::byte* from = params.pool;
    if (valid) {
      const int32_t place = key + item.base_in_block;
      const int32_t block = params.blocks[item.first_block + (place >> params.block_shift)];
      from = plane + block * params.block_bytes + ((place & in_block) * kHeadDim + piece * 8) * 2;
    }
    CopyAsync16(to + TileOffset<kTile>(row, piece), from, valid);
  }
}

// Packed row r of an item: query r / num_heads, head r % num_heads.
template <typename T, int32_t kHeadDim>
__device__ __forceinline__ const T* QueryRow(const AttentionCudaParams& params,
                                             const AttentionItem& item,
                                             int32_t packed_row) {
  return static_cast<const T*>(params.q) +
         (item.first_row + packed_row / item.num_heads) * params.q_stride +
         (item.first_head + packed_row % item.num_heads) * kHeadDim;
}

}  // namespace ringserve::cuda
