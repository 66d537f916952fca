// Decode attention for sm_90a: one persistent block an SM. A producer warp takes items from a
// shared counter and keeps a deep ring of key and value tiles in flight, also across items; four
// warps turn keys into probabilities and four others, one or two tiles behind, accumulate the
// output (attention_decode_cuda.cuh). The block that ends the last item of a row folds its partial
// results.
//
// With kAppends the first four warps rotate an item's queries, and what the row appends takes its
// place in the tile where it is multiplied: all that is loaded was there before this step.
#include <type_traits>

#include "kernels/attention_decode_append_cuda.cuh"
#include "kernels/attention_decode_cuda.cuh"
#include "kernels/attention_kernels_cuda.h"
#include "kernels/attention_tma_cuda.cuh"

namespace ringserve::cuda {
namespace decode {
namespace {

constexpr int32_t kThreads = 2 * kDecodeThreads + 32;
constexpr int32_t kItemSlots = 2;
constexpr int32_t kExchanges = 2;
constexpr int32_t kOutputBarrier = 2;

struct NoRawRow {};

template <int32_t kHeadDim, bool kAppends>
struct DecodeShared {
  using Shape = DecodeShape<kHeadDim>;
  // 192 KB: three tiles of keys and values at head_dim 128. Keys and values alternate, so a stage
  // always holds the same kind.
  static constexpr int32_t kStages = 196608 / Shape::kTileBytes;
  static_assert(kStages % 2 == 0);
  alignas(1024) uint8_t stages[kStages][Shape::kTileBytes];
  typename Shape::Exchange exchanges[kExchanges];
  alignas(128) uint8_t queries[kItemSlots][(kAppends ? 2 : 1) * Shape::kQueryBytes];
  std::conditional_t<kAppends, RawRow<kHeadDim>, NoRawRow> raw_rows[kItemSlots];
  AttentionItem items[kItemSlots];
  TransactionBarrier full[kStages];
  TransactionBarrier empty[kStages];
  TransactionBarrier item_full[kItemSlots];
  TransactionBarrier item_empty[kItemSlots];
  TransactionBarrier exchange_full[kExchanges];
  TransactionBarrier exchange_empty[kExchanges];
  int32_t ends_merge;
};

// One arrival a warp. Ordinary reads before, copies by the tensor copy engine after: that takes a
// proxy fence.
__device__ __forceinline__ void ReleaseCopied(TransactionBarrier& barrier) {
  FenceAsyncProxy();
  __syncwarp();
  if (threadIdx.x % 32 == 0) {
    barrier.Arrive();
  }
}

// What an item says: every thread arrives, which racecheck understands, and items are few.
__device__ __forceinline__ void ReleaseItem(TransactionBarrier& barrier) {
  FenceAsyncProxy();
  barrier.Arrive();
}

template <typename T, int32_t kHeadDim, bool kAppends>
__device__ __forceinline__ void Produce(const AttentionCudaParams& params,
                                        const AppendedRows& rows,
                                        const CUtensorMap& map,
                                        int32_t box_shift,
                                        DecodeShared<kHeadDim, kAppends>& shared) {
  using Shared = DecodeShared<kHeadDim, kAppends>;
  constexpr int32_t kTile = TileKeys(kHeadDim);
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32;
  RingPlace<Shared::kStages> place;
  RingPlace<kItemSlots> slot;
  auto index = static_cast<int32_t>(blockIdx.x);
  bool waited = false;
  while (index < params.num_items) {
    const AttentionItem item = params.items[index];
    TileLoader<kHeadDim> loader(params, map, box_shift, item);
    const auto load = [&](int32_t tile) {
#pragma unroll 1
      for (int32_t part = 0; part < 2; ++part) {
        shared.empty[place.stage].Wait(place.parity ^ 1);
        loader.Load(shared.full[place.stage],
                    SharedAddress(shared.stages[place.stage]),
                    tile,
                    part * params.value_rows);
        place.Advance();
      }
    };
    int32_t tile = 0;
    if (!waited) {
      // Old keys need not wait for the kernel before, whether that or this one appends the step's.
      // Not all that there is room for: that kernel's loads wait behind these.
      const int32_t ready_tiles = kAppends ? item.num_tiles : item.old_keys / kTile;
      const int32_t old_tiles = min(min(item.num_tiles, ready_tiles), Shared::kStages / 3);
#pragma unroll 1
      for (; tile < old_tiles; ++tile) {
        load(tile);
      }
      WaitForPreviousKernel();
      waited = true;
    }
    int32_t next = 0;
    if (lane == 0) {
      next = atomicAdd(&params.counters[0], 1) + static_cast<int32_t>(gridDim.x);
      shared.item_empty[slot.stage].Wait(slot.parity ^ 1);
      shared.items[slot.stage] = item;
      TransactionBarrier& full = shared.item_full[slot.stage];
      if constexpr (kAppends) {
        BringRow<kHeadDim>(
            rows, item, full, shared.queries[slot.stage], shared.raw_rows[slot.stage]);
      } else {
        const int32_t row_bytes = item.num_heads * kHeadDim * 2;
        full.ArriveExpecting(static_cast<uint32_t>(item.num_rows * row_bytes));
        const T* from = static_cast<const T*>(params.q) + item.first_row * params.q_stride +
                        item.first_head * kHeadDim;
        for (int32_t row = 0; row < item.num_rows; ++row) {
          LoadBulk(full,
                   SharedAddress(shared.queries[slot.stage]) + row * row_bytes,
                   from + row * params.q_stride,
                   static_cast<uint32_t>(row_bytes));
        }
      }
    }
    slot.Advance();
#pragma unroll 1
    for (; tile < item.num_tiles; ++tile) {
      load(tile);
    }
    index = __shfl_sync(0xffffffffU, next, 0);
  }
  if (lane == 0) {
    shared.item_empty[slot.stage].Wait(slot.parity ^ 1);
    shared.items[slot.stage].num_tiles = 0;
    shared.item_full[slot.stage].Arrive();
    // The last block to finish leaves the counters as it found them.
    __threadfence();
    if (atomicAdd(&params.counters[1], 1) == static_cast<int32_t>(gridDim.x) - 1) {
      params.counters[0] = 0;
      params.counters[1] = 0;
    }
  }
}

template <typename T, int32_t kHeadDim, bool kAppends>
__device__ __forceinline__ void MakeProbabilities(const AttentionCudaParams& params,
                                                  const AppendedRows& rows,
                                                  DecodeShared<kHeadDim, kAppends>& shared) {
  using Shared = DecodeShared<kHeadDim, kAppends>;
  constexpr int32_t kTile = TileKeys(kHeadDim);
  DecodeScores<T, kHeadDim> scores;
  OwnKey<T, kHeadDim> own_key;
  RingPlace<Shared::kStages> place;
  RingPlace<kItemSlots> slot;
  RingPlace<kExchanges> exchange;
  while (true) {
    shared.item_full[slot.stage].Wait(slot.parity);
    const AttentionItem item = shared.items[slot.stage];
    if (item.num_tiles == 0) {
      return;
    }
    if constexpr (kAppends) {
      own_key.Begin(rows, item, shared.raw_rows[slot.stage]);
      RotateQueries<T, kHeadDim>(item, shared.raw_rows[slot.stage], shared.queries[slot.stage]);
    }
    scores.Begin(item, params.window, SharedAddress(shared.queries[slot.stage]));
    ReleaseItem(shared.item_empty[slot.stage]);
    slot.Advance();
    for (int32_t tile = 0; tile < item.num_tiles; ++tile) {
      shared.full[place.stage].Wait(place.parity);
      if constexpr (kAppends) {
        if (tile == item.num_tiles - 1) {
          own_key.Store(params, item, shared.stages[place.stage]);
        }
      }
      scores.Scores(SharedAddress(shared.stages[place.stage]));
      if (tile < item.dense_begin || tile >= item.dense_end) {
        scores.Mask(tile * kTile);
      }
      scores.PublishMax(shared.exchanges[exchange.stage]);
      ReleaseCopied(shared.empty[place.stage]);
      place.Advance();
      place.Advance();
      NamedBarrier(kScoresBarrier, kDecodeThreads);
      shared.exchange_empty[exchange.stage].Wait(exchange.parity ^ 1);
      scores.PublishProbabilities(shared.exchanges[exchange.stage], params.scale_log2);
      shared.exchange_full[exchange.stage].Arrive();
      exchange.Advance();
    }
  }
}

// The threads that wrote an item's partial results fold those of its rows if no others are missing.
template <typename T, int32_t kHeadDim>
__device__ __forceinline__ void EndPartial(const AttentionCudaParams& params,
                                           const AttentionItem& item,
                                           int32_t& ends_merge,
                                           int32_t thread) {
  const AttentionMerge merge = params.merges[item.merge];
  NamedBarrier(kOutputBarrier, kDecodeThreads);
  if (thread == 0) {
    __threadfence();
    const int32_t done = atomicAdd(&params.merge_counters[item.merge], 1) + 1;
    ends_merge = static_cast<int32_t>(done == merge.num_sources);
    if (done == merge.num_sources) {
      params.merge_counters[item.merge] = 0;
    }
    __threadfence();
  }
  NamedBarrier(kOutputBarrier, kDecodeThreads);
  if (ends_merge != 0) {
    MergeRows<T, kHeadDim>(params, merge, thread);
  }
}

template <typename T, int32_t kHeadDim, bool kAppends>
__device__ __forceinline__ void MakeOutput(const AttentionCudaParams& params,
                                           const AppendedRows& rows,
                                           DecodeShared<kHeadDim, kAppends>& shared) {
  using Shared = DecodeShared<kHeadDim, kAppends>;
  constexpr int32_t kTile = TileKeys(kHeadDim);
  const int32_t thread = static_cast<int32_t>(threadIdx.x) % kDecodeThreads;
  DecodeOutput<T, kHeadDim> output;
  OwnValue<T, kHeadDim> own_value;
  RingPlace<Shared::kStages> place;
  place.Advance();
  RingPlace<kItemSlots> slot;
  RingPlace<kExchanges> exchange;
  while (true) {
    shared.item_full[slot.stage].Wait(slot.parity);
    const AttentionItem item = shared.items[slot.stage];
    if (item.num_tiles == 0) {
      return;
    }
    if constexpr (kAppends) {
      own_value.Begin(rows, item, shared.raw_rows[slot.stage]);
    }
    ReleaseItem(shared.item_empty[slot.stage]);
    slot.Advance();
    output.Begin();
    for (int32_t tile = 0; tile < item.num_tiles; ++tile) {
      shared.full[place.stage].Wait(place.parity);
      if (IsPartial<kTile>(item, tile)) {
        ClearRows<kTile, Shared::Shape::kPanels, kDecodeThreads>(
            item, tile, shared.stages[place.stage], thread);
        NamedBarrier(kOutputBarrier, kDecodeThreads);
      }
      if constexpr (kAppends) {
        if (tile == item.num_tiles - 1) {
          own_value.Store(params, item, shared.stages[place.stage]);
        }
      }
      shared.exchange_full[exchange.stage].Wait(exchange.parity);
      output.Accumulate(shared.exchanges[exchange.stage],
                        SharedAddress(shared.stages[place.stage]));
      ReleaseCopied(shared.empty[place.stage]);
      shared.exchange_empty[exchange.stage].Arrive();
      place.Advance();
      place.Advance();
      exchange.Advance();
    }
    output.Finish(item, params);
    if (item.merge >= 0 && params.merge_counters != nullptr) {
      EndPartial<T, kHeadDim>(params, item, shared.ends_merge, thread);
    }
  }
}

template <typename T, int32_t kHeadDim, bool kAppends>
__global__ void __launch_bounds__(kThreads, 1)
    DecodeHopperKernel(const __grid_constant__ AttentionCudaParams params,
                       const __grid_constant__ AppendedRows rows,
                       const __grid_constant__ CUtensorMap map,
                       int32_t box_shift) {
  using Shared = DecodeShared<kHeadDim, kAppends>;
  extern __shared__ uint8_t dynamic_shared[];
  Shared& shared = *reinterpret_cast<Shared*>(
      dynamic_shared + ((1024 - (SharedAddress(dynamic_shared) & 1023)) & 1023));
  AllowNextKernel();
  if (threadIdx.x == 0) {
    for (int32_t i = 0; i < Shared::kStages; ++i) {
      shared.full[i].Init(1);
      shared.empty[i].Init(kDecodeWarps);
    }
    for (int32_t i = 0; i < kItemSlots; ++i) {
      shared.item_full[i].Init(1);
      shared.item_empty[i].Init(2 * kDecodeThreads);
    }
    for (int32_t i = 0; i < kExchanges; ++i) {
      shared.exchange_full[i].Init(kDecodeThreads);
      shared.exchange_empty[i].Init(kDecodeThreads);
    }
    FenceBarrierInit();
    PrefetchTensorMap(map);
  }
  __syncthreads();
  if (threadIdx.x >= 2 * kDecodeThreads) {
    Produce<T, kHeadDim, kAppends>(params, rows, map, box_shift, shared);
    return;
  }
  WaitForPreviousKernel();
  if (threadIdx.x < kDecodeThreads) {
    MakeProbabilities<T, kHeadDim, kAppends>(params, rows, shared);
  } else {
    MakeOutput<T, kHeadDim, kAppends>(params, rows, shared);
  }
}

template <typename T, int32_t kHeadDim, bool kAppends>
cudaError_t Launch(const AttentionCudaParams& params,
                   const AppendedRows& rows,
                   const LaunchLimits& limits,
                   const TensorMaps& maps,
                   cudaStream_t stream) {
  constexpr int32_t kShared = sizeof(DecodeShared<kHeadDim, kAppends>) + 1024;
  static_assert(kShared <= 232448);
  const auto kernel = DecodeHopperKernel<T, kHeadDim, kAppends>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (error != cudaSuccess) {
    return error;
  }
  const int32_t grid = min(params.num_items, limits.num_sms);
  return LaunchOverlapping(
      kernel, grid, kThreads, kShared, stream, params, rows, maps.kv, maps.box_shift);
}

}  // namespace
}  // namespace decode

template <typename T, int32_t kHeadDim>
cudaError_t LaunchDecodeHopper(const AttentionCudaParams& params,
                               const AppendedRows& rows,
                               const LaunchLimits& limits,
                               const TensorMaps& maps,
                               cudaStream_t stream) {
  if (rows.qkv == nullptr) {
    return decode::Launch<T, kHeadDim, false>(params, rows, limits, maps, stream);
  }
  if constexpr (kHeadDim == 64 || kHeadDim == 128) {
    return decode::Launch<T, kHeadDim, true>(params, rows, limits, maps, stream);
  } else {
    return cudaErrorInvalidValue;
  }
}

#define RINGSERVE_INSTANTIATE(T, D)                                         \
  template cudaError_t LaunchDecodeHopper<T, D>(const AttentionCudaParams&, \
                                                const AppendedRows&,        \
                                                const LaunchLimits&,        \
                                                const TensorMaps&,          \
                                                cudaStream_t);
RINGSERVE_INSTANTIATE(__nv_bfloat16, 64)
RINGSERVE_INSTANTIATE(__nv_bfloat16, 96)
RINGSERVE_INSTANTIATE(__nv_bfloat16, 128)
RINGSERVE_INSTANTIATE(__nv_bfloat16, 256)
RINGSERVE_INSTANTIATE(__half, 64)
RINGSERVE_INSTANTIATE(__half, 96)
RINGSERVE_INSTANTIATE(__half, 128)
RINGSERVE_INSTANTIATE(__half, 256)
#undef RINGSERVE_INSTANTIATE

}  // namespace ringserve::cuda
