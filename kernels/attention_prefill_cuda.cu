// Prefill attention for sm_80 and later: a block of four warps takes 64 packed rows of an item,
// each warp 16 of them; the keys of the next tile load while this tile's values are multiplied.
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

template <typename T, int32_t kHeadDim>
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
      const bool valid = row < num_rows;
      const T* from =
          QueryRow<T, kHeadDim>(params, item, valid ? pass_row + row : 0) + i % kPieces * 8;
      CopyAsync16(queries + TileOffset<kRows>(row, i % kPieces), from, valid);
    }
    LoadTile<kHeadDim, kThreads>(params, item, 0, 0, keys);
    CommitCopies();
    const int32_t first_row = pass_row + warp * 16 + lane / 4;
    rows.SetLimits(item, params.window, first_row, item.num_heads);
    rows.ClearFolded();
    rows.BeginSplit();
    rows.ClearOutput();
    bool first = true;
    int32_t boundary = item.tiles_to_split;
    for (int32_t tile = 0; tile < item.num_tiles; ++tile) {
      WaitCopies<0>();
      __syncthreads();
      LoadTile<kHeadDim, kThreads>(params, item, tile, params.value_offset, values);
      CommitCopies();
      rows.template ScoresByWarp<kRows>(queries, warp * 16, keys);
      if (tile < item.dense_begin || tile >= item.dense_end) {
        rows.Mask(tile * kTile + lane % 4 * 2);
      }
      if (tile == boundary) {
        rows.BeginSplit();
        rows.FoldSplit(params.scale_log2, total, kThreads, first);
        rows.ClearOutput();
        first = false;
        boundary += params.tiles_per_split;
      }
      rows.Softmax(params.scale_log2);
      rows.PackProbabilities();
      if (rows.NeedsRescaling()) {
        rows.RescaleOutput();
      }
      WaitCopies<0>();
      __syncthreads();
      if (tile + 1 < item.num_tiles) {
        LoadTile<kHeadDim, kThreads>(params, item, tile + 1, 0, keys);
      }
      CommitCopies();
      Accumulate<T, kHeadDim>(rows, values, lane);
    }
    rows.BeginSplit();
    rows.FinishRows(params.scale_log2, total, kThreads, first);
    rows.Store(item, params, first_row, lane % 4, item.num_heads);
    WaitCopies<0>();
    __syncthreads();
  }
}

constexpr int32_t kBlocksPerSm = 2;

}  // namespace

int64_t PrefillScratchFloats(int32_t num_sms, int32_t head_dim) {
  return int64_t{num_sms} * kBlocksPerSm * kRows * head_dim;
}

template <typename T, int32_t kHeadDim>
cudaError_t LaunchPrefill(const AttentionCudaParams& params,
                          const LaunchLimits& limits,
                          cudaStream_t stream) {
  constexpr int32_t kShared = sizeof(PortablePrefillShared<kHeadDim>) + 1024;
  const auto kernel = PrefillKernel<T, kHeadDim>;
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

#define RINGSERVE_INSTANTIATE(T, D)         \
  template cudaError_t LaunchPrefill<T, D>( \
      const AttentionCudaParams&, const LaunchLimits&, cudaStream_t);
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
