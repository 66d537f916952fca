// The matrix product for sm_90a where a block has few weight rows for few rows of x: mma.sync with
// the weight as its 16 rows and x as its 8 columns. A step along K waits for the one before it, and
// that takes half of what it takes wgmma, which the narrow tiles of a small weight show: their 4096
// columns are a chain of 256 steps. The bits are the same.
#pragma once

#include <cstdint>

#include "kernels/matmul_producer_cuda.cuh"
#include "kernels/swiglu_cuda.cuh"

namespace ringserve::cuda::matmul {

// The sums of one warp: 16 weight rows, kBlocks times 8 rows of x. An array of the caller's own,
// not a member: it must stay in registers.
template <int32_t kBlocks>
using RowsSums = float[kBlocks][4];

// x for two steps along K.
template <int32_t kBlocks>
__device__ __forceinline__ void LoadRows(uint32_t panel,
                                         int32_t step,
                                         uint32_t (&x)[2][kBlocks][2]) {
  const auto lane = static_cast<int32_t>(threadIdx.x) % 32;
#pragma unroll
  for (int32_t block = 0; block < kBlocks; ++block) {
    uint32_t words[4];
    LoadMatrix4(words, panel + PanelOffset(block * 8 + lane % 8, step * 2 + lane / 8));
    x[0][block][0] = words[0];
    x[0][block][1] = words[1];
    x[1][block][0] = words[2];
    x[1][block][1] = words[3];
  }
}

// The same of one row of x, as if it were eight; `row` holds its columns one after the other.
__device__ __forceinline__ void LoadOneRow(uint32_t row, int32_t step, uint32_t (&x)[2][1][2]) {
  const auto lane = static_cast<int32_t>(threadIdx.x) % 32;
  uint32_t words[4];
  LoadMatrix4(words, row + (step * 2 + lane / 8) * 16);
  x[0][0][0] = words[0];
  x[0][0][1] = words[1];
  x[1][0][0] = words[2];
  x[1][0][1] = words[3];
}

// A stage: kPanels panels of x, then as many of tile_columns weight rows. kOneRow: x is not there,
// but one row from `row` on.
template <typename T, int32_t kPanels, int32_t kBlocks, bool kOneRow = false>
__device__ __forceinline__ void MultiplyStage(
    uint32_t stage, int32_t tile_columns, int32_t warp, RowsSums<kBlocks>& sums, uint32_t row = 0) {
  const auto lane = static_cast<int32_t>(threadIdx.x) % 32;
  const uint32_t weights = stage + kPanels * kBlocks * 8 * kPanelRowBytes;
#pragma unroll
  for (int32_t panel = 0; panel < kPanels; ++panel) {
    const uint32_t x_panel = stage + panel * kBlocks * 8 * kPanelRowBytes;
    const uint32_t weight_panel = weights + panel * tile_columns * kPanelRowBytes;
#pragma unroll
    for (int32_t pair = 0; pair < kPanelColumns / 16; pair += 2) {
      uint32_t x[2][kBlocks][2];
      if constexpr (kOneRow) {
        LoadOneRow(row + panel * kPanelRowBytes, pair, x);
      } else {
        LoadRows<kBlocks>(x_panel, pair, x);
      }
#pragma unroll
      for (int32_t k = 0; k < 2; ++k) {
        uint32_t a[4];
        LoadMatrix4(a,
                    weight_panel + PanelOffset(warp * 16 + lane % 16, (pair + k) * 2 + lane / 16));
#pragma unroll
        for (int32_t block = 0; block < kBlocks; ++block) {
          MatrixProduct<T>(sums[block], a, x[k][block][0], x[k][block][1]);
        }
      }
    }
  }
}

// `first`: the first weight row of the tile. Rows of x past num_rows and weight rows past
// num_columns are left out; if gated, weight rows are eight of the gate and eight of the up
// projection in turns.
template <typename T, int32_t kBlocks>
__device__ __forceinline__ void StoreRows(void* out,
                                          bool gated,
                                          int32_t num_rows,
                                          int32_t num_columns,
                                          int32_t first,
                                          int32_t warp,
                                          const RowsSums<kBlocks>& sums) {
  const auto lane = static_cast<int32_t>(threadIdx.x) % 32;
#pragma unroll
  for (int32_t block = 0; block < kBlocks; ++block) {
#pragma unroll
    for (int32_t i = 0; i < 2; ++i) {
      const int64_t row = block * 8 + lane % 4 * 2 + i;
      if (row >= num_rows) {
        continue;
      }
      // Zeros past K turn -0 into 0: so does every tiling.
      const float low = sums[block][i] + 0.0F;
      const float high = sums[block][2 + i] + 0.0F;
      if (gated) {
        const int32_t features = num_columns / 2;
        const int32_t feature = first / 2 + warp * 8 + lane / 4;
        if (feature < features) {
          static_cast<T*>(out)[row * features + feature] = static_cast<T>(GatedProduct(low, high));
        }
      } else {
        const int32_t column = first + warp * 16 + lane / 4;
        float* to = static_cast<float*>(out) + row * num_columns + column;
        if (column < num_columns) {
          to[0] = low;
        }
        if (column + 8 < num_columns) {
          to[8] = high;
        }
      }
    }
  }
}

template <typename T, int32_t kBlocks, bool kGated>
__device__ __forceinline__ void MultiplyRows(const HopperParams& params,
                                             Barriers& barriers,
                                             uint32_t stages,
                                             int32_t warp) {
  StagePlace at;
  const auto step = static_cast<int32_t>(gridDim.x);
  for (auto tile = static_cast<int32_t>(blockIdx.x); tile < params.num_tiles; tile += step) {
    RowsSums<kBlocks> sums = {};
#pragma unroll 1
    for (int32_t slab = 0; slab < params.num_slabs; ++slab) {
      barriers.full[at.stage].Wait(at.parity);
      MultiplyStage<T, kRowsPanels, kBlocks>(
          stages + at.stage * params.stage_bytes, params.tile_columns, warp, sums);
      __syncwarp();
      if (threadIdx.x % 32 == 0) {
        barriers.empty[at.stage].Arrive();
      }
      at.Advance(params.num_stages);
    }
    StoreRows<T, kBlocks>(params.out,
                          kGated,
                          params.num_rows,
                          params.num_columns,
                          TilePlace(params, tile).column * params.tile_columns,
                          warp,
                          sums);
  }
}

inline constexpr int32_t kRowsWarps = 4;
inline constexpr int32_t kRowsThreads = 32 * (kRowsWarps + 1);

template <typename T, int32_t kBlocks, bool kGated>
__global__ void __launch_bounds__(kRowsThreads, 1)
    MatMulRowsKernel(const __grid_constant__ HopperParams params,
                     const __grid_constant__ CUtensorMap x_map,
                     const __grid_constant__ CUtensorMap weight_map) {
  extern __shared__ uint8_t dynamic_shared[];
  __shared__ Barriers barriers;
  const uint32_t stages = (SharedAddress(dynamic_shared) + 1023U) & ~1023U;
  const auto warp = static_cast<int32_t>(threadIdx.x) / 32;
  const int32_t num_warps = params.tile_columns / 16;
  AllowNextKernel();
  if (threadIdx.x == 32 * kRowsWarps) {
    barriers.Init(params.num_stages, num_warps);
    PrefetchTensorMap(x_map);
    PrefetchTensorMap(weight_map);
  }
  __syncthreads();
  if (threadIdx.x == 32 * kRowsWarps) {
    Producer<kRowsPanels, kGated>(params, x_map, weight_map, barriers, stages).Run();
  } else if (warp < num_warps) {
    MultiplyRows<T, kBlocks, kGated>(params, barriers, stages, warp);
  }
}

}  // namespace ringserve::cuda::matmul
