// Prefill attention for sm_80 and later: a block of four warps takes 64 packed rows of an item,
// each warp 16 of them; the keys of the next tile load while this tile's values are multiplied. The
// general kernel also takes what attention_cuda.h calls general.
#include "kernels/attention_kernels_cuda.h"
#include "kernels/attention_load_cuda.cuh"
#include "kernels/attention_prefill_cuda.cuh"

namespace ringserve::cuda {
namespace {

constexpr int32_t kRows = 64;
constexpr int32_t kThreads = 128;

template <int32_t kHeadDim>
struct PortablePrefillShared {
  static constexpr int32_t kPanels = CeilDiv(kHeadDim, kPanelColumns);
  alignas(1024) uint8_t keys[kPanels * TileKeys(kHeadDim) * kPanelRowBytes];
  alignas(1024) uint8_t values[kPanels * TileKeys(kHeadDim) * kPanelRowBytes];
  alignas(1024) uint8_t queries[kPanels * kRows * kPanelRowBytes];
};

template <typename T, int32_t kHeadDim>
__device__ __forceinline__ void Accumulate(PrefillRowsState<T, kHeadDim>& rows,
                                           uint32_t values,
                                           int32_t lane) {
  constexpr int32_t kTile = TileKeys(kHeadDim);
  auto& out = reinterpret_cast<float(&)[kHeadDim / 8][4]>(rows.out);
  const auto& probabilities =
      reinterpret_cast<const uint32_t(&)[kTile / 16][4]>(rows.probabilities);
#pragma unroll
  for (int32_t k = 0; k < kTile / 16; ++k) {
#pragma unroll
    for (int32_t j = 0; j < kHeadDim / 16; ++j) {
      uint32_t b[4];
      const int32_t key = k * 16 + (lane & 7) + ((lane >> 3) & 1) * 8;
      LoadMatrix4Transposed(b, values + TileOffset<kTile>(key, 2 * j + (lane >> 4)));
      MatrixProduct<T>(out[2 * j], probabilities[k], b[0], b[1]);
      MatrixProduct<T>(out[2 * j + 1], probabilities[k], b[2], b[3]);
    }
  }
}

template <typename T, int32_t kHeadDim, bool kGeneral>
__global__ void __launch_bounds__(kThreads)
    PrefillKernel(const __grid_constant__ AttentionCudaParams params) {
  constexpr int32_t kTile = TileKeys(kHeadDim);
  constexpr int32_t kPieces = kHeadDim / 8;
  extern __shared__ uint8_t dynamic_shared[];
  auto& shared = *reinterpret_cast<PortablePrefillShared<kHeadDim>*>(
      dynamic_shared + ((1024 - (SharedAddress(dynamic_shared) & 1023)) & 1023));
  const uint32_t keys = SharedAddress(shared.keys);
  const uint32_t values = SharedAddress(shared.values);
  const uint32_t queries = SharedAddress(shared.queries);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t warp = thread / 32;
  const int32_t lane = thread % 32;
  float4* total = reinterpret_cast<float4*>(params.scratch) +
                  static_cast<int64_t>(blockIdx.x) * (kRows * kHeadDim / 4) + thread;
  PrefillRowsState<T, kHeadDim> rows;

  constexpr int32_t kPasses = kPrefillRows / kRows;
  for (int32_t work = static_cast<int32_t>(blockIdx.x); work < params.num_items * kPasses;
       work += static_cast<int32_t>(gridDim.x)) {
    const AttentionItem item = params.items[work / kPasses];
    const int32_t pass_row = work % kPasses * kRows;
    const int32_t num_rows = item.num_rows * item.num_heads - pass_row;
    if (num_rows <= 0) {
      continue;
    }
    for (int32_t i = thread; i < kRows * kPieces; i += kThreads) {
      const int32_t row = i / kPieces;
      const bool valid = row < num_rows && i % kPieces * 8 < HeadDim<kHeadDim, kGeneral>(params);
      const T* from = QueryRow<T, kHeadDim, kGeneral>(params, item, valid ? pass_row + row : 0) +
                      (valid ? i % kPieces * 8 : 0);
      CopyAsync16(queries + TileOffset<kRows>(row, i % kPieces), from, valid);
    }
    const int32_t sink_tiles = SinkTiles<kHeadDim, kGeneral>(item);
    const int32_t num_tiles = sink_tiles + item.num_tiles;
    // Tiles are counted from the first of the sinks.
    const auto load = [&](int32_t tile, int64_t offset, uint32_t to) {
      if (kGeneral && tile < sink_tiles) {
        LoadSinkTile<kHeadDim, kThreads>(params, item, tile, offset, to);
      } else {
        LoadTile<kHeadDim, kThreads, kGeneral>(params, item, tile - sink_tiles, offset, to);
      }
    };
    load(0, 0, keys);
    CommitCopies();
    const int32_t first_row = pass_row + warp * 16 + lane / 4;
    if (kGeneral && item.first_listed >= 0) {
      rows.SetLimitsOfAll(item);
    } else {
      rows.SetLimits(item, params.window, first_row, item.num_heads);
    }
    rows.ClearFolded();
    rows.BeginSplit();
    rows.ClearOutput();
    bool first = true;
    int32_t boundary = sink_tiles > 0 ? sink_tiles : item.tiles_to_split;
    for (int32_t tile = 0; tile < num_tiles; ++tile) {
      WaitCopies<0>();
      __syncthreads();
      load(tile, params.value_offset, values);
      CommitCopies();
      if constexpr (kGeneral) {
        if (tile < sink_tiles) {
          RotateSinks<T, kHeadDim, kThreads>(params, item, tile, shared.keys);
          __syncthreads();
        }
      }
      rows.template ScoresByWarp<kRows>(queries, warp * 16, keys);
      if constexpr (kGeneral) {
        if (params.cap_scale > 0) {
          rows.Cap(params.cap_scale);
        }
      }
      const int32_t ordinary = tile - sink_tiles;
      if constexpr (kGeneral) {
        if (params.position_bias != nullptr) {
          rows.AddBias(item, params, first_row, ordinary * kTile + lane % 4 * 2);
        }
      }
      if (kGeneral && tile < sink_tiles) {
        rows.MaskBehind(lane % 4 * 2, item.num_sinks - tile * kTile);
      } else if (ordinary < item.dense_begin || ordinary >= item.dense_end) {
        rows.Mask(ordinary * kTile + lane % 4 * 2);
      }
      if (tile == boundary) {
        rows.BeginSplit();
        rows.FoldSplit(params.scale_log2, total, kThreads, first);
        rows.ClearOutput();
        first = false;
        boundary = tile == sink_tiles ? sink_tiles + item.tiles_to_split
                                      : boundary + params.tiles_per_split;
      }
      rows.Softmax(params.scale_log2);
      rows.PackProbabilities();
      if (rows.NeedsRescaling()) {
        rows.RescaleOutput();
      }
      WaitCopies<0>();
      __syncthreads();
      if (tile + 1 < num_tiles) {
        load(tile + 1, 0, keys);
      }
      CommitCopies();
      Accumulate<T, kHeadDim>(rows, values, lane);
    }
    rows.BeginSplit();
    rows.FoldRows(params.scale_log2, total, kThreads, first);
    if (kGeneral && item.first_partial >= 0) {
      rows.StorePartial(item, params, first_row, lane % 4);
    } else {
      if constexpr (kGeneral) {
        if (params.sink_logits != nullptr) {
          rows.AddLearnedSinks(item, params, first_row);
        }
      }
      rows.Normalize();
      rows.template Store<kGeneral>(item, params, first_row, lane % 4, item.num_heads);
    }
    WaitCopies<0>();
    __syncthreads();
  }
}

constexpr int32_t kBlocksPerSm = 2;

}  // namespace

int64_t PrefillScratchFloats(int32_t num_sms, int32_t head_dim) {
  return int64_t{num_sms} * kBlocksPerSm * kRows * PaddedHeadDim(head_dim);
}

template <typename T, int32_t kHeadDim, bool kGeneral>
cudaError_t LaunchPrefill(const AttentionCudaParams& params,
                          const LaunchLimits& limits,
                          cudaStream_t stream) {
  constexpr int32_t kShared = sizeof(PortablePrefillShared<kHeadDim>) + 1024;
  const auto kernel = PrefillKernel<T, kHeadDim, kGeneral>;
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (error != cudaSuccess) {
    return error;
  }
  const int32_t works = params.num_items * (kPrefillRows / kRows);
  const int32_t grid = min(works, kBlocksPerSm * limits.num_sms);
  kernel<<<grid, kThreads, kShared, stream>>>(params);
  return cudaGetLastError();
}

#define RINGSERVE_INSTANTIATE(T, D, G)         \
  template cudaError_t LaunchPrefill<T, D, G>( \
      const AttentionCudaParams&, const LaunchLimits&, cudaStream_t);
#define RINGSERVE_INSTANTIATE_TYPE(T)  \
  RINGSERVE_INSTANTIATE(T, 64, false)  \
  RINGSERVE_INSTANTIATE(T, 96, false)  \
  RINGSERVE_INSTANTIATE(T, 128, false) \
  RINGSERVE_INSTANTIATE(T, 256, false) \
  RINGSERVE_INSTANTIATE(T, 64, true)   \
  RINGSERVE_INSTANTIATE(T, 128, true)  \
  RINGSERVE_INSTANTIATE(T, 256, true)
RINGSERVE_INSTANTIATE_TYPE(__nv_bfloat16)
RINGSERVE_INSTANTIATE_TYPE(__half)
#undef RINGSERVE_INSTANTIATE_TYPE
#undef RINGSERVE_INSTANTIATE

}  // namespace ringserve::cuda
