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

// Which part of a tile is a warp's: unit `unit` of 16 weight rows, and of x the blocks of eight
// rows from `block` on.
struct RowsPart {
  int32_t unit;
  int32_t block;
};

// A parameter that is not to be looked at again where time is short: that takes as long as a
// product of 16 columns, and much longer while copies keep the caches busy.
__device__ __forceinline__ int32_t InRegister(int32_t parameter) {
  asm volatile("" : "+r"(parameter));
  return parameter;
}

// A ring of stages and the place in it.
struct RowsRing {
  Barriers& barriers;
  TransactionBarrier* rows_free;  // of a cluster's blocks, of which each brings a part of x
  const uint32_t stages;
  const int32_t stage_bytes;
  const int32_t num_stages;
  StagePlace at = {};
};

// A warp's sums over slabs of K, out of the stages of a ring: rows of x in kParts equal parts, one
// of each block of a cluster, of kPanels panels, then as many panels of tile_columns weight rows.
// kXBlocks: of eight rows in a stage; kBlocks: the warp's. kOneRow: x is not there, but one row
// from `row` on, its columns one after the other, and stands for eight.
//
// Each product waits for the one before it, so everything else happens under products: operands are
// read two steps along K ahead, also into the next stage.
template <typename T,
          int32_t kPanels,
          int32_t kBlocks,
          int32_t kXBlocks,
          int32_t kParts,
          bool kOneRow = false>
class RowsProduct {
 public:
  // `arrivals`: for the warp and those that have no part in the product.
  __device__ __forceinline__ RowsProduct(RowsRing& ring,
                                         int32_t tile_columns,
                                         const RowsPart& part,
                                         uint32_t arrivals = 1,
                                         uint32_t row = 0)
      : ring_(ring),
        tile_columns_(tile_columns),
        part_(part),
        arrivals_(arrivals),
        row_(row + Lane() / 8 * 16) {}

  __device__ __forceinline__ void Add(int32_t num_slabs, RowsSums<kBlocks>& sums) {
    Pair pairs[2];
    Begin(pairs[0]);
#pragma unroll 1
    for (int32_t slab = 1; slab < num_slabs; ++slab) {
      AllButLast(pairs, sums);
      Begin(pairs[0]);
      Multiply(pairs[1], sums);
    }
    AllButLast(pairs, sums);
    Multiply(pairs[1], sums);
  }

 private:
  static constexpr int32_t kBlockBytes = 8 * kPanelRowBytes;  // of x, in a panel
  static constexpr int32_t kPartBlocks = kXBlocks / kParts;
  static constexpr int32_t kPairs = kPanels * kPanelColumns / 32;
  static_assert(kPairs % 2 == 0);

  // Operands of two steps along K.
  struct Pair {
    uint32_t weights[2][4];
    uint32_t x[2][kBlocks][2];
  };

  static __device__ __forceinline__ int32_t Lane() {
    return static_cast<int32_t>(threadIdx.x) % 32;
  }

  // The first pair of the next stage.
  __device__ __forceinline__ void Begin(Pair& pair) {
    ring_.barriers.full[ring_.at.stage].Wait(ring_.at.parity);
    stage_ = ring_.stages + static_cast<uint32_t>(ring_.at.stage * ring_.stage_bytes);
    Load(0, pair);
  }

  // The last pair is read, so that the stage is free.
  __device__ __forceinline__ void AllButLast(Pair (&pairs)[2], RowsSums<kBlocks>& sums) {
#pragma unroll
    for (int32_t pair = 0; pair < kPairs - 1; ++pair) {
      Load(pair + 1, pairs[(pair + 1) % 2]);
      Multiply(pairs[pair % 2], sums);
    }
    __syncwarp();
    if (Lane() == 0) {
      ring_.barriers.empty[ring_.at.stage].Arrive(arrivals_);
    }
    if (kParts > 1 && Lane() < kParts) {
      ArriveAt(ring_.rows_free[ring_.at.stage], Lane(), arrivals_);
    }
    ring_.at.Advance(ring_.num_stages);
    if constexpr (kOneRow) {
      row_ += kPanels * kPanelRowBytes;
    }
  }

  __device__ __forceinline__ void Load(int32_t index, Pair& pair) const {
    const int32_t panel = index / 2;
    const int32_t step = index % 2 * 2;
    if constexpr (kOneRow) {
      LoadX(row_ + static_cast<uint32_t>(panel * kPanelRowBytes + step * 32), 0, pair);
    } else {
      const uint32_t x =
          stage_ + XOffset(part_.block) + PanelOffset(Lane() % 8, step * 2 + Lane() / 8);
#pragma unroll
      for (int32_t block = 0; block < kBlocks; ++block) {
        LoadX(x + XOffset(block) + static_cast<uint32_t>(panel * kPartBlocks * kBlockBytes),
              block,
              pair);
      }
    }
    const uint32_t weights = stage_ + static_cast<uint32_t>(kPanels * kXBlocks * kBlockBytes +
                                                            panel * tile_columns_ * kPanelRowBytes);
#pragma unroll
    for (int32_t k = 0; k < 2; ++k) {
      LoadMatrix4(
          pair.weights[k],
          weights + PanelOffset(part_.unit * 16 + Lane() % 16, (step + k) * 2 + Lane() / 16));
    }
  }

  // Of a block of x in its first panel. A warp's blocks lie in one part or start the first.
  static __device__ __forceinline__ uint32_t XOffset(int32_t block) {
    return static_cast<uint32_t>(
        (block / kPartBlocks * kPanels * kPartBlocks + block % kPartBlocks) * kBlockBytes);
  }

  static __device__ __forceinline__ void LoadX(uint32_t from, int32_t block, Pair& pair) {
    uint32_t words[4];
    LoadMatrix4(words, from);
    pair.x[0][block][0] = words[0];
    pair.x[0][block][1] = words[1];
    pair.x[1][block][0] = words[2];
    pair.x[1][block][1] = words[3];
  }

  static __device__ __forceinline__ void Multiply(const Pair& pair, RowsSums<kBlocks>& sums) {
#pragma unroll
    for (int32_t k = 0; k < 2; ++k) {
#pragma unroll
      for (int32_t block = 0; block < kBlocks; ++block) {
        MatrixProduct<T>(sums[block], pair.weights[k], pair.x[k][block][0], pair.x[k][block][1]);
      }
    }
  }

  RowsRing& ring_;
  const int32_t tile_columns_;
  const RowsPart part_;
  const uint32_t arrivals_;
  uint32_t row_;
  uint32_t stage_ = 0;
};

// `first`: the first weight row of the tile. Rows of x past num_rows and weight rows past
// num_columns are left out; if gated, weight rows are eight of the gate and eight of the up
// projection in turns. scale(row): what the row's sums are multiplied with.
template <typename T, int32_t kBlocks, typename Scale>
__device__ __forceinline__ void StoreRows(void* out,
                                          bool gated,
                                          int32_t num_rows,
                                          int32_t num_columns,
                                          int32_t first,
                                          const RowsPart& part,
                                          const RowsSums<kBlocks>& sums,
                                          const Scale& scale) {
  const auto lane = static_cast<int32_t>(threadIdx.x) % 32;
#pragma unroll
  for (int32_t block = 0; block < kBlocks; ++block) {
#pragma unroll
    for (int32_t i = 0; i < 2; ++i) {
      const int64_t row = (part.block + block) * 8 + lane % 4 * 2 + i;
      if (row >= num_rows) {
        continue;
      }
      // Zeros past K turn -0 into 0: so does every tiling.
      const float low = (sums[block][i] + 0.0F) * scale(row);
      const float high = (sums[block][2 + i] + 0.0F) * scale(row);
      if (gated) {
        const int32_t features = num_columns / 2;
        const int32_t feature = first / 2 + part.unit * 8 + lane / 4;
        if (feature < features) {
          static_cast<T*>(out)[row * features + feature] = static_cast<T>(GatedProduct(low, high));
        }
      } else {
        const int32_t column = first + part.unit * 16 + lane / 4;
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
  if (params.row_scales != nullptr) {
    WaitForPreviousKernel();
  }
  const RowsPart part = {warp, 0};
  RowsRing ring = {
      barriers, nullptr, stages, InRegister(params.stage_bytes), InRegister(params.num_stages)};
  const auto step = static_cast<int32_t>(gridDim.x);
  for (auto tile = static_cast<int32_t>(blockIdx.x); tile < params.num_tiles; tile += step) {
    RowsSums<kBlocks> sums = {};
    RowsProduct<T, kRowsPanels, kBlocks, kBlocks, 1>(ring, params.tile_columns, part)
        .Add(params.num_slabs, sums);
    StoreRows<T, kBlocks>(params.out,
                          kGated,
                          params.num_rows,
                          params.num_columns,
                          TilePlace(params, tile).column * params.tile_columns,
                          part,
                          sums,
                          [&](int64_t row) { return RowScale(params.row_scales, row); });
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
