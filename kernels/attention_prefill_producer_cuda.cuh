// The producer's half of the sm_90a prefill kernel, and what it shares with the consumers.
#pragma once

#include <cstdint>

#include "kernels/attention_cuda_params.cuh"
#include "kernels/attention_tma_cuda.cuh"
#include "kernels/hopper_cuda.cuh"

namespace ringserve::cuda::prefill {

inline constexpr int32_t kGroupThreads = 128;
inline constexpr int32_t kConsumers = 2;
inline constexpr int32_t kConsumerWarps = 4 * kConsumers;
inline constexpr int32_t kThreads = kGroupThreads * (1 + kConsumers);
inline constexpr int32_t kGroupRows = 64;
inline constexpr int32_t kStages = 2;
inline constexpr int32_t kItemSlots = 4;
inline constexpr int32_t kTurnBarrier = 1;  // and the one after it: consumer 0's turn, consumer 1's
inline constexpr int32_t kClearBarrier = 3;

struct ItemSlot {
  AttentionItem item;
  int32_t query_buffer;
  int32_t holds_folds;  // has several splits and so the room for folded rows
};

template <int32_t kHeadDim>
struct PrefillShared {
  static constexpr int32_t kTile = TileKeys(kHeadDim);
  static constexpr int32_t kPanels = CeilDiv(kHeadDim, kPanelColumns);
  static constexpr int32_t kTileBytes = kPanels * kTile * kPanelRowBytes;
  static constexpr int32_t kQueryBytes = kPanels * kPrefillRows * kPanelRowBytes;
  // Where shared memory has room: the folded output rows of an item with several splits, or else a
  // second buffer of queries, so that short items find theirs loaded.
  static constexpr bool kHasFoldRoom = kHeadDim <= 128;
  static constexpr int32_t kFoldBytes = kPrefillRows * kHeadDim * 4;
  alignas(1024) uint8_t queries[kQueryBytes];
  alignas(1024) uint8_t folds[kHasFoldRoom ? kFoldBytes : 16];
  alignas(1024) uint8_t keys[kStages][kTileBytes];
  alignas(1024) uint8_t values[kStages][kTileBytes];
  ItemSlot items[kItemSlots];
  TransactionBarrier item_full[kItemSlots];
  TransactionBarrier item_empty[kItemSlots];
  TransactionBarrier key_full[kStages];
  TransactionBarrier key_empty[kStages];
  TransactionBarrier value_full[kStages];
  TransactionBarrier value_empty[kStages];
  TransactionBarrier query_full[2];
  TransactionBarrier query_empty[2];  // [1] also guards the folds

  __device__ __forceinline__ uint32_t Queries(int32_t buffer) const {
    return SharedAddress(buffer == 0 ? queries : folds);
  }
};

// The producer warp.
template <int32_t kHeadDim>
class Producer {
 public:
  using Shared = PrefillShared<kHeadDim>;

  __device__ __forceinline__ Producer(const AttentionCudaParams& params,
                                      const CUtensorMap& kv_map,
                                      const CUtensorMap& query_map,
                                      int32_t box_shift,
                                      int32_t query_heads,
                                      Shared& shared)
      : params_(params),
        kv_map_(kv_map),
        query_map_(query_map),
        box_shift_(box_shift),
        query_bytes_(static_cast<uint32_t>(kPrefillRows / query_heads * query_heads *
                                           Shared::kPanels * kPanelRowBytes)),
        shared_(shared),
        lane_(static_cast<int32_t>(threadIdx.x) % 32) {}

  __device__ __forceinline__ void Run() {
    auto index = static_cast<int32_t>(blockIdx.x);
    // Lane i holds word i of the item: the next one is fetched while this one's tiles load.
    int32_t words = FetchWords(index);
    while (index < params_.num_items) {
      shared_.item_empty[slot_.stage].Wait(slot_.parity ^ 1);
      ItemSlot& slot = shared_.items[slot_.stage];
      if (lane_ < kItemWords) {
        reinterpret_cast<int32_t*>(&slot.item)[lane_] = words;
      }
      __syncwarp();
      const AttentionItem& item = slot.item;
      if (lane_ == 0) {
        LoadQueries(slot);
        index = atomicAdd(&params_.counters[0], 1) + static_cast<int32_t>(gridDim.x);
      }
      shared_.item_full[slot_.stage].Arrive();
      const int32_t num_tiles = item.num_tiles;
      TileLoader<kHeadDim> loader(params_, kv_map_, box_shift_, item);
      slot_.Advance();
      for (int32_t tile = 0; tile <= num_tiles; ++tile) {
        if (tile < num_tiles) {
          shared_.key_empty[keys_.stage].Wait(keys_.parity ^ 1);
          loader.Load(
              shared_.key_full[keys_.stage], SharedAddress(shared_.keys[keys_.stage]), tile, 0);
          keys_.Advance();
        }
        if (tile > 0) {
          shared_.value_empty[values_.stage].Wait(values_.parity ^ 1);
          loader.Load(shared_.value_full[values_.stage],
                      SharedAddress(shared_.values[values_.stage]),
                      tile - 1,
                      params_.value_rows);
          values_.Advance();
        } else {
          index = __shfl_sync(0xffffffffU, index, 0);
          words = FetchWords(index);
        }
      }
    }
    shared_.item_empty[slot_.stage].Wait(slot_.parity ^ 1);
    if (lane_ == 0) {
      shared_.items[slot_.stage].item.num_tiles = 0;
    }
    shared_.item_full[slot_.stage].Arrive();
    if (lane_ == 0) {
      // The last block to finish leaves the counters as it found them.
      __threadfence();
      if (atomicAdd(&params_.counters[1], 1) == static_cast<int32_t>(gridDim.x) - 1) {
        params_.counters[0] = 0;
        params_.counters[1] = 0;
      }
    }
  }

 private:
  static constexpr int32_t kItemWords = sizeof(AttentionItem) / 4;

  __device__ __forceinline__ int32_t FetchWords(int32_t index) const {
    return index < params_.num_items && lane_ < kItemWords
               ? reinterpret_cast<const int32_t*>(params_.items + index)[lane_]
               : 0;
  }

  // One lane. Queries alternate between the buffers, but not while folds hold the second: the first
  // of a run of items with folds acquires it, the last gives it back, and that happens only after
  // the first scores of the item that follows the run.
  __device__ __forceinline__ void LoadQueries(ItemSlot& slot) {
    const bool folds = slot.item.num_tiles > slot.item.tiles_to_split;
    if constexpr (Shared::kHasFoldRoom) {
      buffer_ = folds || held_folds_ ? 0 : buffer_ ^ 1;
      if (folds && !held_folds_) {
        Acquire(1);
      }
      held_folds_ = folds;
    }
    slot.holds_folds = static_cast<int32_t>(folds);
    slot.query_buffer = buffer_;
    Acquire(buffer_);
    TransactionBarrier& full = shared_.query_full[buffer_];
    full.ArriveExpecting(query_bytes_);
    for (int32_t panel = 0; panel < Shared::kPanels; ++panel) {
      LoadBox3(query_map_,
               full,
               shared_.Queries(buffer_) + panel * kPrefillRows * kPanelRowBytes,
               panel * kPanelColumns,
               slot.item.first_head,
               slot.item.first_row);
    }
  }

  __device__ __forceinline__ void Acquire(int32_t buffer) {
    shared_.query_empty[buffer].Wait(((acquired_ >> buffer) & 1) ^ 1);
    acquired_ ^= 1U << buffer;
  }

  const AttentionCudaParams& params_;
  const CUtensorMap& kv_map_;
  const CUtensorMap& query_map_;
  const int32_t box_shift_;
  const uint32_t query_bytes_;
  Shared& shared_;
  const int32_t lane_;
  int32_t buffer_ = 0;
  bool held_folds_ = false;
  uint32_t acquired_ = 0;  // bit b: parity of buffer b's phase
  RingPlace<kItemSlots> slot_;
  RingPlace<kStages> keys_;
  RingPlace<kStages> values_;
};

}  // namespace ringserve::cuda::prefill
