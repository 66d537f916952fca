// Tiles from the pool to shared memory by the tensor copy engine, for the sm_90a kernels. One warp
// issues the copies; the pool is one 2-D tensor of rows of head_dim elements, a box is 64 columns
// of the rows of one block that lie in the tile.
#pragma once

#include <cstdint>

#include "kernels/attention_cuda_params.cuh"
#include "kernels/hopper_cuda.cuh"

namespace ringserve::cuda {

// Issues the copies of one item's tiles; all lanes of one warp call it together.
template <int32_t kHeadDim>
class TileLoader {
 public:
  static constexpr int32_t kTile = TileKeys(kHeadDim);
  static constexpr int32_t kPanels = CeilDiv(kHeadDim, kPanelColumns);

  __device__ __forceinline__ TileLoader(const AttentionCudaParams& params,
                                        const CUtensorMap& map,
                                        int32_t box_shift,
                                        const AttentionItem& item)
      : params_(params),
        map_(map),
        key_begin_(item.key_begin),
        key_end_(item.key_end),
        base_in_block_(item.base_in_block),
        blocks_(params.blocks + item.first_block),
        box_shift_(box_shift),
        lane_(static_cast<int32_t>(threadIdx.x) % 32),
        first_row_(params.layer_rows + (item.kv_head << params.block_shift)) {
    Fetch((item.key_begin + item.base_in_block) >> params.block_shift);
  }

  // Loads the part of tile `tile` that exists; row_offset is 0 for keys, value_rows for values.
  __device__ __forceinline__ void Load(TransactionBarrier& barrier,
                                       uint32_t to,
                                       int32_t tile,
                                       int32_t row_offset) {
    const int32_t tile_key = tile * kTile;
    const int32_t begin = max(key_begin_ - tile_key, 0) >> box_shift_;
    const int32_t end = (min(key_end_ - tile_key, kTile) + (1 << box_shift_) - 1) >> box_shift_;
    const int32_t count = (end - begin) * kPanels;
    if (lane_ == 0) {
      barrier.ArriveExpecting(static_cast<uint32_t>(count * kPanelRowBytes) << box_shift_);
    }
    const int32_t tile_place = tile_key + base_in_block_;
    const int32_t first_block = (tile_place + (begin << box_shift_)) >> params_.block_shift;
    const int32_t last_block = (tile_place + (end << box_shift_) - 1) >> params_.block_shift;
    if (first_block < first_ || last_block >= first_ + 32) {
      Fetch(first_block);
    }
    __syncwarp();
#pragma unroll 1
    for (int32_t i = 0; i < count; i += 32) {
      const int32_t box = begin + (i + lane_) / kPanels;
      const int32_t panel = (i + lane_) % kPanels;
      const int32_t place = tile_place + (box << box_shift_);
      const int32_t id =
          __shfl_sync(0xffffffffU, id_, ((place >> params_.block_shift) - first_) & 31);
      if (i + lane_ < count) {
        LoadBox2(map_,
                 barrier,
                 to + static_cast<uint32_t>(panel * kTile + (box << box_shift_)) * kPanelRowBytes,
                 panel * kPanelColumns,
                 id * params_.block_rows + first_row_ + row_offset +
                     (place & ((1 << params_.block_shift) - 1)));
      }
    }
  }

 private:
  // Lane i holds the id of the item's block first_ + i.
  __device__ __forceinline__ void Fetch(int32_t index) {
    first_ = index;
    const int32_t mine = index + lane_;
    const bool exists = mine <= (key_end_ - 1 + base_in_block_) >> params_.block_shift;
    id_ = exists ? blocks_[mine] : 0;
  }

  const AttentionCudaParams& params_;
  const CUtensorMap& map_;
  const int32_t key_begin_;
  const int32_t key_end_;
  const int32_t base_in_block_;
  const int32_t* blocks_;
  const int32_t box_shift_;
  const int32_t lane_;
  const int32_t first_row_;
  int32_t first_ = 0;
  int32_t id_ = 0;
};

// Clears the rows of a values tile that hold no keys: whatever lies there, even NaN, would reach
// the product, where it meets a probability of zero. All `kThreads` consumers call this, then a
// barrier.
template <int32_t kTile, int32_t kPanels, int32_t kThreads>
__device__ __forceinline__ void ClearRows(const AttentionItem& item,
                                          int32_t tile,
                                          uint8_t* values,
                                          int32_t thread) {
  const int32_t begin = max(item.key_begin - tile * kTile, 0);
  const int32_t end = min(item.key_end - tile * kTile, kTile);
  constexpr int32_t kPieces = kPanels * 8;
  for (int32_t i = thread; i < kTile * kPieces; i += kThreads) {
    const int32_t row = i / kPieces;
    if (row < begin || row >= end) {
      *reinterpret_cast<uint4*>(values + TileOffset<kTile>(row, i % kPieces)) =
          make_uint4(0, 0, 0, 0);
    }
  }
  FenceAsyncProxy();
}

template <int32_t kTile>
__device__ __forceinline__ bool IsPartial(const AttentionItem& item, int32_t tile) {
  return tile * kTile < item.key_begin || (tile + 1) * kTile > item.key_end;
}

}  // namespace ringserve::cuda
