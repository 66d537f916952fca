// Decode attention for sm_90a: one persistent block an SM. A producer warp takes items from a
// shared counter and keeps a deep ring of key and value tiles in flight, also across items; four
// consumer warps do the arithmetic (attention_decode_cuda.cuh).
#include "kernels/attention_decode_cuda.cuh"
#include "kernels/attention_kernels_cuda.h"
#include "kernels/attention_tma_cuda.cuh"

namespace ringserve::cuda {
namespace {

constexpr int32_t kThreads = kDecodeThreads + 32;
constexpr int32_t kItemSlots = 2;

template <typename T, int32_t kHeadDim>
struct DecodeShared {
  using Shape = DecodeShape<T, kHeadDim>;
  // 192 KB: three tiles of keys and values at head_dim 128.
  static constexpr int32_t kStages = 196608 / Shape::kTileBytes;
  alignas(1024) uint8_t stages[kStages][Shape::kTileBytes];
  typename Shape::Exchange exchange;
  alignas(128) uint8_t queries[kItemSlots][Shape::kQueryBytes];
  AttentionItem items[kItemSlots];
  TransactionBarrier full[kStages];
  TransactionBarrier empty[kStages];
  TransactionBarrier item_full[kItemSlots];
  TransactionBarrier item_empty[kItemSlots];
};

template <typename T, int32_t kHeadDim>
__device__ __forceinline__ void Produce(const AttentionCudaParams& params,
                                        const CUtensorMap& map,
                                        int32_t box_shift,
                                        DecodeShared<T, kHeadDim>& shared) {
  using Shared = DecodeShared<T, kHeadDim>;
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32;
  RingPlace<Shared::kStages> place;
  RingPlace<kItemSlots> slot;
  auto index = static_cast<int32_t>(blockIdx.x);
  while (index < params.num_items) {
    const AttentionItem item = params.items[index];
    int32_t next = 0;
    if (lane == 0) {
      next = atomicAdd(&params.counters[0], 1) + static_cast<int32_t>(gridDim.x);
      shared.item_empty[slot.stage].Wait(slot.parity ^ 1);
      shared.items[slot.stage] = item;
      const int32_t row_bytes = item.num_heads * kHeadDim * 2;
      TransactionBarrier& full = shared.item_full[slot.stage];
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
    slot.Advance();
    TileLoader<kHeadDim> loader(params, map, box_shift, item);
    for (int32_t tile = 0; tile < item.num_tiles; ++tile) {
      shared.empty[place.stage].Wait(place.parity ^ 1);
      loader.Load(shared.full[place.stage], SharedAddress(shared.stages[place.stage]), tile, 0);
      place.Advance();
      shared.empty[place.stage].Wait(place.parity ^ 1);
      loader.Load(shared.full[place.stage],
                  SharedAddress(shared.stages[place.stage]),
                  tile,
                  params.value_rows);
      place.Advance();
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

template <typename T, int32_t kHeadDim>
__device__ __forceinline__ void Consume(const AttentionCudaParams& params,
                                        DecodeShared<T, kHeadDim>& shared) {
  using Shared = DecodeShared<T, kHeadDim>;
  constexpr int32_t kTile = TileKeys(kHeadDim);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  // Ordinary reads before, copies by the tensor copy engine after: that takes a proxy fence.
  const auto release = [&](TransactionBarrier& barrier) {
    FenceAsyncProxy();
    __syncwarp();
    if (thread % 32 == 0) {
      barrier.Arrive();
    }
  };
  DecodeRowsState<T, kHeadDim> rows(shared.exchange);
  RingPlace<Shared::kStages> place;
  RingPlace<kItemSlots> slot;
  while (true) {
    shared.item_full[slot.stage].Wait(slot.parity);
    const AttentionItem item = shared.items[slot.stage];
    if (item.num_tiles == 0) {
      return;
    }
    rows.Begin(item, params.window, SharedAddress(shared.queries[slot.stage]));
    release(shared.item_empty[slot.stage]);
    slot.Advance();
    for (int32_t tile = 0; tile < item.num_tiles; ++tile) {
      shared.full[place.stage].Wait(place.parity);
      rows.Scores(SharedAddress(shared.stages[place.stage]));
      if (tile < item.dense_begin || tile >= item.dense_end) {
        rows.Mask(tile * kTile);
      }
      rows.PublishMax();
      release(shared.empty[place.stage]);
      place.Advance();
      NamedBarrier(kDecodeBarrier, kDecodeThreads);
      rows.PublishProbabilities(params.scale_log2);
      shared.full[place.stage].Wait(place.parity);
      if (IsPartial<kTile>(item, tile)) {
        ClearRows<kTile, Shared::Shape::kPanels, kDecodeThreads>(
            item, tile, shared.stages[place.stage], thread);
      }
      NamedBarrier(kDecodeBarrier, kDecodeThreads);
      rows.Accumulate(SharedAddress(shared.stages[place.stage]));
      release(shared.empty[place.stage]);
      place.Advance();
    }
    rows.Finish(item, params);
  }
}

template <typename T, int32_t kHeadDim>
__global__ void __launch_bounds__(kThreads, 1)
    DecodeHopperKernel(const __grid_constant__ AttentionCudaParams params,
                       const __grid_constant__ CUtensorMap map,
                       int32_t box_shift) {
  using Shared = DecodeShared<T, kHeadDim>;
  extern __shared__ uint8_t dynamic_shared[];
  Shared& shared = *reinterpret_cast<Shared*>(
      dynamic_shared + ((1024 - (SharedAddress(dynamic_shared) & 1023)) & 1023));
  if (threadIdx.x == 0) {
    for (int32_t i = 0; i < Shared::kStages; ++i) {
      shared.full[i].Init(1);
      shared.empty[i].Init(kDecodeWarps);
    }
    for (int32_t i = 0; i < kItemSlots; ++i) {
      shared.item_full[i].Init(1);
      shared.item_empty[i].Init(kDecodeWarps);
    }
    FenceBarrierInit();
    PrefetchTensorMap(map);
  }
  __syncthreads();
  AllowNextKernel();
  WaitForPreviousKernel();
  if (threadIdx.x >= kDecodeThreads) {
    Produce<T, kHeadDim>(params, map, box_shift, shared);
  } else {
    Consume<T, kHeadDim>(params, shared);
  }
}

}  // namespace

template <typename T, int32_t kHeadDim>
cudaError_t LaunchDecodeHopper(const AttentionCudaParams& params,
                               const LaunchLimits& limits,
                               const TensorMaps& maps,
                               cudaStream_t stream) {
  constexpr int32_t kShared = sizeof(DecodeShared<T, kHeadDim>) + 1024;
  static_assert(kShared <= 232448);
  const auto kernel = DecodeHopperKernel<T, kHeadDim>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (error != cudaSuccess) {
    return error;
  }
  const int32_t grid = min(params.num_items, limits.num_sms);
  return LaunchOverlapping(
      kernel, grid, kThreads, kShared, stream, params, maps.kv, maps.box_shift);
}

#define RINGSERVE_INSTANTIATE(T, D)              \
  template cudaError_t LaunchDecodeHopper<T, D>( \
      const AttentionCudaParams&, const LaunchLimits&, const TensorMaps&, cudaStream_t);
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
