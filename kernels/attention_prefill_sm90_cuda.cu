// Prefill attention for sm_90a. One persistent block an SM: a producer warp takes items from a
// shared counter and brings queries, keys and values by tensor copies through two-stage rings; two
// consumer warpgroups of 64 packed rows each alternate, so that one's softmax runs under the
// other's products, and within a warpgroup the scores of the next tile run under the product with
// the values of this one (Shah et al. 2024, FlashAttention-3).
#include "kernels/attention_kernels_cuda.h"
#include "kernels/attention_prefill_cuda.cuh"
#include "kernels/attention_prefill_producer_cuda.cuh"
#include "kernels/attention_tma_cuda.cuh"
#include "kernels/wgmma_cuda.cuh"

namespace ringserve::cuda {
namespace prefill {
namespace {

// A consumer warpgroup. Its tiles form one stream over all items: every step issues the scores of a
// tile and the product with the values of the tile before it, whether or not both are of one item,
// and turns the scores into probabilities under the latter.
template <typename T, int32_t kHeadDim>
class Consumer {
 public:
  using Shared = PrefillShared<kHeadDim>;
  static constexpr int32_t kTile = Shared::kTile;

  __device__ __forceinline__ Consumer(const AttentionCudaParams& params,
                                      int32_t query_heads,
                                      Shared& shared)
      : params_(params),
        shared_(shared),
        query_heads_(query_heads),
        group_(static_cast<int32_t>(threadIdx.x) / kGroupThreads - 1),
        thread_(static_cast<int32_t>(threadIdx.x) % kGroupThreads),
        first_row_(group_ * kGroupRows + thread_ / 32 * 16 + thread_ % 32 / 4) {
    if constexpr (Shared::kHasFoldRoom) {
      folds_ = reinterpret_cast<float4*>(shared.folds);
    } else {
      folds_ = reinterpret_cast<float4*>(params.scratch) +
               static_cast<int64_t>(blockIdx.x) * (kPrefillRows * kHeadDim / 4);
    }
    folds_ += group_ * (kGroupRows * kHeadDim / 4) + thread_;
  }

  __device__ __forceinline__ void Run() {
    if (group_ == 0) {
      NamedBarrierArrive(kTurnBarrier, kConsumers * kGroupThreads);
    }
    if (!NextItem()) {
      return;
    }
    FirstTile();
    while (true) {
      const int32_t end = min(boundary_, num_tiles_);
      int32_t tile = tile_ + 1;
      for (; tile < min(dense_begin_, end); ++tile) {
        Step<true>(tile);
      }
      for (; tile < min(dense_end_, end); ++tile) {
        Step<false>(tile);
      }
      for (; tile < end; ++tile) {
        Step<true>(tile);
      }
      if (end < num_tiles_) {
        tile_ = end;
        boundary_ += params_.tiles_per_split;
        StepToSplit();
        continue;
      }
      Release(shared_.query_empty[query_buffer_]);
      if (!NextItem()) {
        break;
      }
      StepToItem();
    }
    shared_.value_full[values_.stage].Wait(values_.parity);
    IssueOutputs();
    WgmmaWait<0>();
    FenceRegisters(rows_.out);
    rows_.BeginSplit();
    FinishItem(last_slot_, false);
  }

 private:
  // The item after this one, which stays in its slot until it is finished; false: there is none.
  __device__ __forceinline__ bool NextItem() {
    shared_.item_full[slot_.stage].Wait(slot_.parity);
    const ItemSlot& slot = shared_.items[slot_.stage];
    num_tiles_ = slot.item.num_tiles;
    if (num_tiles_ == 0) {
      return false;
    }
    dense_begin_ = slot.item.dense_begin;
    dense_end_ = slot.item.dense_end;
    boundary_ = slot.item.tiles_to_split;
    query_buffer_ = slot.query_buffer;
    tile_ = 0;
    rows_.SetLimits(slot.item, params_.window, first_row_, query_heads_);
    previous_slot_ = last_slot_;
    last_slot_ = slot_.stage;
    slot_.Advance();
    return true;
  }

  // The first tile of the first item: nothing to run under.
  __device__ __forceinline__ void FirstTile() {
    WaitQueries();
    shared_.key_full[keys_.stage].Wait(keys_.parity);
    IssueScores();
    WgmmaWait<0>();
    FenceRegisters(rows_.scores);
    Release(shared_.key_empty[keys_.stage]);
    keys_.Advance();
    MaskEdge(0);
    rows_.ClearFolded();
    rows_.BeginSplit();
    rows_.Softmax(params_.scale_log2);
    rows_.PackProbabilities();
    FenceRegisters(rows_.probabilities);
    rows_.ClearOutput();
    FenceRegisters(rows_.out);
    ClearValues(0);
  }

  // Scores of `tile` under the output of the tile before, both of one split.
  template <bool kMasked>
  __device__ __forceinline__ void Step(int32_t tile) {
    shared_.key_full[keys_.stage].Wait(keys_.parity);
    NamedBarrier(kTurnBarrier + group_, kConsumers * kGroupThreads);
    IssueScores();
    shared_.value_full[values_.stage].Wait(values_.parity);
    IssueOutputs();
    NamedBarrierArrive(kTurnBarrier + 1 - group_, kConsumers * kGroupThreads);
    WgmmaWait<1>();
    EndScores();
    if constexpr (kMasked) {
      rows_.Mask(tile * kTile + thread_ % 4 * 2);
    }
    rows_.Softmax(params_.scale_log2);
    FenceRegisters(rows_.scores);
    // The branch also keeps the wait for the output behind the softmax: the assembler knows no
    // reason to, and would wait first.
    if (rows_.NeedsRescaling()) {
      WgmmaWait<0>();
      FenceRegisters(rows_.out);
      rows_.RescaleOutput();
      FenceRegisters(rows_.out);
    } else {
      WgmmaWaitAgain<0>();
      FenceRegisters(rows_.out);
    }
    EndOutputs();
    rows_.PackProbabilities();
    FenceRegisters(rows_.probabilities);
    if constexpr (kMasked) {
      ClearValues(tile);
    }
  }

  // A step where tile_ begins another split of the item: the one before is folded.
  __device__ __forceinline__ void StepToSplit() {
    shared_.key_full[keys_.stage].Wait(keys_.parity);
    NamedBarrier(kTurnBarrier + group_, kConsumers * kGroupThreads);
    IssueScores();
    shared_.value_full[values_.stage].Wait(values_.parity);
    IssueOutputs();
    NamedBarrierArrive(kTurnBarrier + 1 - group_, kConsumers * kGroupThreads);
    WgmmaWait<1>();
    EndScores();
    MaskEdge(tile_);
    rows_.BeginSplit();
    rows_.Softmax(params_.scale_log2);
    FenceRegisters(rows_.scores);
    WaitBehindSoftmax();
    EndOutputs();
    rows_.PackProbabilities();
    FenceRegisters(rows_.probabilities);
    rows_.FoldSplit(params_.scale_log2, folds_, kGroupThreads, !folded_);
    folded_ = true;
    rows_.ClearOutput();
    FenceRegisters(rows_.out);
    ClearValues(tile_);
  }

  // A step to the first tile of another item. The last output is issued first: it runs while the
  // new queries may still load, and is finished and stored under the scores (with the softmax under
  // it instead, 16 x 1k ran at 466 TFLOP/s, not 486).
  __device__ __forceinline__ void StepToItem() {
    shared_.value_full[values_.stage].Wait(values_.parity);
    NamedBarrier(kTurnBarrier + group_, kConsumers * kGroupThreads);
    IssueOutputs();
    WaitQueries();
    shared_.key_full[keys_.stage].Wait(keys_.parity);
    IssueScores();
    NamedBarrierArrive(kTurnBarrier + 1 - group_, kConsumers * kGroupThreads);
    rows_.BeginSplit();
    WgmmaWait<1>();
    EndOutputs();
    FinishItem(previous_slot_, shared_.items[last_slot_].holds_folds != 0);
    rows_.ClearOutput();
    FenceRegisters(rows_.out);
    WgmmaWait<0>();
    EndScores();
    MaskEdge(tile_);
    rows_.Softmax(params_.scale_log2);
    rows_.PackProbabilities();
    FenceRegisters(rows_.probabilities);
    ClearValues(tile_);
  }

  // Waits for the output; the branch is there as in Step.
  __device__ __forceinline__ void WaitBehindSoftmax() {
    if (rows_.NeedsRescaling()) {
      WgmmaWait<0>();
    } else {
      WgmmaWaitAgain<0>();
    }
  }

  __device__ __forceinline__ void EndScores() {
    FenceRegisters(rows_.scores);
    Release(shared_.key_empty[keys_.stage]);
    keys_.Advance();
  }

  __device__ __forceinline__ void EndOutputs() {
    FenceRegisters(rows_.out);
    // The product read these until now: without this the assembler gives them to the softmax and
    // waits before it.
    FenceRegisters(rows_.probabilities);
    Release(shared_.value_empty[values_.stage]);
    values_.Advance();
  }

  // next_holds_folds: whether the item after it keeps the room for folds.
  __device__ __forceinline__ void FinishItem(int32_t stage, bool next_holds_folds) {
    const ItemSlot& slot = shared_.items[stage];
    rows_.FinishRows(params_.scale_log2, folds_, kGroupThreads, !folded_);
    rows_.Store(slot.item, params_, first_row_, thread_ % 4, query_heads_);
    if (Shared::kHasFoldRoom && slot.holds_folds != 0 && !next_holds_folds) {
      FenceAsyncProxy();  // queries may come to where the folds were
      Release(shared_.query_empty[1]);
    }
    Release(shared_.item_empty[stage]);
    rows_.ClearFolded();
    folded_ = false;
  }

  __device__ __forceinline__ void WaitQueries() {
    shared_.query_full[query_buffer_].Wait((query_parities_ >> query_buffer_) & 1);
    query_parities_ ^= 1U << query_buffer_;
  }

  __device__ __forceinline__ void MaskEdge(int32_t tile) {
    if (tile < dense_begin_ || tile >= dense_end_) {
      rows_.Mask(tile * kTile + thread_ % 4 * 2);
    }
  }

  // Before the product with the values of `tile`, if some of its rows hold no keys: the first tile
  // of an item at a window's edge, the last at the end of a sequence. The warpgroups share the
  // work.
  __device__ __forceinline__ void ClearValues(int32_t tile) {
    const AttentionItem& item = shared_.items[last_slot_].item;
    if (IsPartial<kTile>(item, tile)) {
      shared_.value_full[values_.stage].Wait(values_.parity);
      ClearRows<kTile, Shared::kPanels, kConsumers * kGroupThreads>(
          item, tile, shared_.values[values_.stage], group_ * kGroupThreads + thread_);
      NamedBarrier(kClearBarrier, kConsumers * kGroupThreads);
    }
  }

  __device__ __forceinline__ void IssueScores() {
    const uint64_t a =
        OperandDescriptor(shared_.Queries(query_buffer_) + group_ * kGroupRows * kPanelRowBytes, 0);
    const uint64_t b = OperandDescriptor(SharedAddress(shared_.keys[keys_.stage]), 0);
    FenceRegisters(rows_.scores);
    WgmmaFence();
#pragma unroll
    for (int32_t k = 0; k < kHeadDim / 16; ++k) {
      const int32_t column_bytes = k % 4 * 32;
      WgmmaShared<T, kTile>::Run(rows_.scores,
                                 a + ((k / 4 * kPrefillRows * kPanelRowBytes + column_bytes) >> 4),
                                 b + ((k / 4 * kTile * kPanelRowBytes + column_bytes) >> 4),
                                 k > 0);
    }
    WgmmaCommit();
  }

  __device__ __forceinline__ void IssueOutputs() {
    const uint64_t b =
        OperandDescriptor(SharedAddress(shared_.values[values_.stage]), kTile * kPanelRowBytes);
    FenceRegisters(rows_.out);
    WgmmaFence();
#pragma unroll
    for (int32_t k = 0; k < kTile / 16; ++k) {
      WgmmaRegisters<T, kHeadDim>::Run(
          rows_.out, &rows_.probabilities[4 * k], b + ((k * 16 * kPanelRowBytes) >> 4), true);
    }
    WgmmaCommit();
  }

  __device__ __forceinline__ void Release(TransactionBarrier& barrier) {
    __syncwarp();
    if (thread_ % 32 == 0) {
      barrier.Arrive();
    }
  }

  const AttentionCudaParams& params_;
  Shared& shared_;
  const int32_t query_heads_;
  const int32_t group_;
  const int32_t thread_;
  const int32_t first_row_;
  float4* folds_;
  // The item whose scores come next, or just came.
  int32_t num_tiles_ = 0;
  int32_t dense_begin_ = 0;
  int32_t dense_end_ = 0;
  int32_t boundary_ = 0;  // the next tile that begins a split
  int32_t query_buffer_ = 0;
  int32_t tile_ = 0;  // first tile of the split
  bool folded_ = false;
  int32_t last_slot_ = 0;
  int32_t previous_slot_ = 0;
  uint32_t query_parities_ = 0;
  RingPlace<kItemSlots> slot_;
  RingPlace<kStages> keys_;
  RingPlace<kStages> values_;
  PrefillRowsState<T, kHeadDim> rows_;
};

template <typename T, int32_t kHeadDim>
__global__ void __launch_bounds__(kThreads, 1)
    PrefillHopperKernel(const __grid_constant__ AttentionCudaParams params,
                        const __grid_constant__ CUtensorMap kv_map,
                        const __grid_constant__ CUtensorMap query_map,
                        int32_t box_shift,
                        int32_t query_heads) {
  using Shared = PrefillShared<kHeadDim>;
  extern __shared__ uint8_t dynamic_shared[];
  Shared& shared = *reinterpret_cast<Shared*>(
      dynamic_shared + ((1024 - (SharedAddress(dynamic_shared) & 1023)) & 1023));
  if (threadIdx.x == 0) {
    for (int32_t i = 0; i < kItemSlots; ++i) {
      shared.item_full[i].Init(32);  // each lane of the producer writes a part of the item
      shared.item_empty[i].Init(kConsumerWarps);
    }
    for (int32_t i = 0; i < kStages; ++i) {
      shared.key_full[i].Init(1);
      shared.key_empty[i].Init(kConsumerWarps);
      shared.value_full[i].Init(1);
      shared.value_empty[i].Init(kConsumerWarps);
    }
    for (int32_t i = 0; i < 2; ++i) {
      shared.query_full[i].Init(1);
      shared.query_empty[i].Init(kConsumerWarps);
    }
    FenceBarrierInit();
    PrefetchTensorMap(kv_map);
    PrefetchTensorMap(query_map);
  }
  __syncthreads();
  WaitForPreviousKernel();
  AllowNextKernel();
  if (threadIdx.x < kGroupThreads) {
    LowerRegisters<40>();
    if (threadIdx.x < 32) {
      Producer<kHeadDim>(params, kv_map, query_map, box_shift, query_heads, shared).Run();
    }
  } else {
    RaiseRegisters<232>();
    Consumer<T, kHeadDim>(params, query_heads, shared).Run();
  }
}

}  // namespace
}  // namespace prefill

template <typename T, int32_t kHeadDim>
cudaError_t LaunchPrefillHopper(const AttentionCudaParams& params,
                                const LaunchLimits& limits,
                                const TensorMaps& maps,
                                cudaStream_t stream) {
  using namespace prefill;  // NOLINT(google-build-using-namespace): the kernel's own names
  constexpr int32_t kShared = sizeof(PrefillShared<kHeadDim>) + 1024;
  static_assert(kShared <= 232448);
  const auto kernel = PrefillHopperKernel<T, kHeadDim>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (error != cudaSuccess) {
    return error;
  }
  const int32_t grid = min(params.num_items, limits.num_sms);
  return LaunchOverlapping(kernel,
                           grid,
                           kThreads,
                           kShared,
                           stream,
                           params,
                           maps.kv,
                           maps.queries,
                           maps.box_shift,
                           maps.query_heads);
}

#define RINGSERVE_INSTANTIATE(T, D)               \
  template cudaError_t LaunchPrefillHopper<T, D>( \
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
