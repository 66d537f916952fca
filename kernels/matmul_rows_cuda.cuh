// The matrix product for sm_90a where a block has few weight rows for few rows of x: mma.sync with
// the weight as its 16 rows and x as its 8 columns. A step along K waits for the one before it, and
// that takes half of what it takes wgmma, which the narrow tiles of a small weight show: their 4096
// columns are a chain of 256 steps. The bits are the same.
#pragma once

#include <cstdint>

#include "kernels/matmul_producer_cuda.cuh"
#include "kernels/swiglu_cuda.cuh"

namespace ringserve::cuda::matmul {

// A warp: 16 weight rows, kBlocks times 8 rows of x.
template <typename T, int32_t kBlocks, bool kGated>
class RowsConsumer {
 public:
  __device__ __forceinline__
  RowsConsumer(const HopperParams& params, Barriers& barriers, uint32_t stages, int32_t warp)
      : params_(params),
        barriers_(barriers),
        stages_(stages),
        warp_(warp),
        lane_(static_cast<int32_t>(threadIdx.x) % 32) {}

  __device__ __forceinline__ void Run() {
    StagePlace at;
    const auto step = static_cast<int32_t>(gridDim.x);
    for (auto tile = static_cast<int32_t>(blockIdx.x); tile < params_.num_tiles; tile += step) {
      float sums[kBlocks][4] = {};
#pragma unroll 1
      for (int32_t slab = 0; slab < params_.num_slabs; ++slab) {
        barriers_.full[at.stage].Wait(at.parity);
        Multiply(at.stage, sums);
        __syncwarp();
        if (lane_ == 0) {
          barriers_.empty[at.stage].Arrive();
        }
        at.Advance(params_.num_stages);
      }
      Store(TilePlace(params_, tile), sums);
    }
  }

 private:
  static constexpr int32_t kSteps = kPanelColumns / 16;

  __device__ __forceinline__ void Multiply(int32_t stage, float (&sums)[kBlocks][4]) {
    const uint32_t base = stages_ + stage * params_.stage_bytes;
    const uint32_t weights = base + params_.weight_offset;
#pragma unroll
    for (int32_t panel = 0; panel < kRowsPanels; ++panel) {
      const uint32_t x_panel = base + panel * kBlocks * 8 * kPanelRowBytes;
      const uint32_t weight_panel = weights + panel * params_.tile_columns * kPanelRowBytes;
#pragma unroll
      for (int32_t pair = 0; pair < kSteps; pair += 2) {
        uint32_t x[2][kBlocks][2];
        LoadRows(x_panel, pair, x);
#pragma unroll
        for (int32_t k = 0; k < 2; ++k) {
          uint32_t a[4];
          LoadMatrix4(
              a, weight_panel + PanelOffset(warp_ * 16 + lane_ % 16, (pair + k) * 2 + lane_ / 16));
#pragma unroll
          for (int32_t block = 0; block < kBlocks; ++block) {
            MatrixProduct<T>(sums[block], a, x[k][block][0], x[k][block][1]);
          }
        }
      }
    }
  }

  // x for two steps along K.
  __device__ __forceinline__ void LoadRows(uint32_t panel,
                                           int32_t step,
                                           uint32_t (&x)[2][kBlocks][2]) {
#pragma unroll
    for (int32_t block = 0; block < kBlocks; ++block) {
      uint32_t words[4];
      LoadMatrix4(words, panel + PanelOffset(block * 8 + lane_ % 8, step * 2 + lane_ / 8));
      x[0][block][0] = words[0];
      x[0][block][1] = words[1];
      x[1][block][0] = words[2];
      x[1][block][1] = words[3];
    }
  }

  __device__ __forceinline__ void Store(const TilePlace& place, const float (&sums)[kBlocks][4]) {
#pragma unroll
    for (int32_t block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int32_t i = 0; i < 2; ++i) {
        const int64_t row = block * 8 + lane_ % 4 * 2 + i;
        if (row >= params_.num_rows) {
          continue;
        }
        // Zeros past K turn -0 into 0: so does every tiling.
        const float low = sums[block][i] + 0.0F;
        const float high = sums[block][2 + i] + 0.0F;
        if constexpr (kGated) {
          const int32_t features = params_.num_columns / 2;
          const int32_t feature = place.column * (params_.tile_columns / 2) + warp_ * 8 + lane_ / 4;
          if (feature < features) {
            static_cast<T*>(params_.out)[row * features + feature] =
                static_cast<T>(GatedProduct(low, high));
          }
        } else {
          const int32_t column = place.column * params_.tile_columns + warp_ * 16 + lane_ / 4;
          float* out = static_cast<float*>(params_.out) + row * params_.num_columns + column;
          if (column < params_.num_columns) {
            out[0] = low;
          }
          if (column + 8 < params_.num_columns) {
            out[8] = high;
          }
        }
      }
    }
  }

  const HopperParams& params_;
  Barriers& barriers_;
  const uint32_t stages_;
  const int32_t warp_;
  const int32_t lane_;
};

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
    RowsConsumer<T, kBlocks, kGated>(params, barriers, stages, warp).Run();
  }
}

}  // namespace ringserve::cuda::matmul
