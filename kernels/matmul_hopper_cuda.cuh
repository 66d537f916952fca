// The matrix product for sm_90a, for every number of rows: out = x W^T.
//
// Rows of x are the M of wgmma (64 a warpgroup), rows of the weight its N; K is walked in one
// order, 16 at a time into one accumulator, so that a result's bits depend neither on the number of
// rows nor on the tiles chosen. Few rows: a block owns as many weight rows as gives every SM one
// tile or a whole number of them, and streams them once; the unused rows of M multiply whatever
// lies in shared memory and are not stored. Many rows: the usual persistent tiles of 128 x 256.
//
// A producer thread keeps a ring of stages full by tensor copies; it asks for the first weights
// before the kernel that makes x has ended. Blocks of a cluster work on neighbouring weight rows
// and bring x for each other, one part each.
#pragma once

#include <cstdint>

#include <cuda.h>

#include "kernels/matmul_producer_cuda.cuh"
#include "kernels/swiglu_cuda.cuh"
#include "kernels/wgmma_columns_cuda.cuh"

namespace ringserve::cuda::matmul {

// A warpgroup: 64 rows of x.
template <typename T, int32_t kColumns, int32_t kPanels, bool kGated>
class Consumer {
 public:
  __device__ __forceinline__ Consumer(const HopperParams& params,
                                      Barriers& barriers,
                                      uint32_t stages)
      : params_(params),
        barriers_(barriers),
        stages_(stages),
        group_(static_cast<int32_t>(threadIdx.x) / kGroupThreads),
        lane_(static_cast<int32_t>(threadIdx.x) % 32) {}

  __device__ __forceinline__ void Run() {
    if (params_.row_scales != nullptr) {
      WaitForPreviousKernel();
    }
    StagePlace at;
    const auto step = static_cast<int32_t>(gridDim.x);
    for (auto tile = static_cast<int32_t>(blockIdx.x); tile < params_.num_tiles; tile += step) {
      const TilePlace place(params_, tile);
      LoadScales(place);
#pragma unroll
      for (int32_t i = 0; i < kColumns / 2; ++i) {
        sums_[i] = 0;
      }
      FenceRegisters(sums_);
      int32_t previous = at.stage;
      barriers_.full[at.stage].Wait(at.parity);
      Multiply(at.stage);
      at.Advance(params_.num_stages);
#pragma unroll 1
      for (int32_t slab = 1; slab < params_.num_slabs; ++slab) {
        barriers_.full[at.stage].Wait(at.parity);
        Multiply(at.stage);
        WgmmaWait<1>();
        Release(previous);
        previous = at.stage;
        at.Advance(params_.num_stages);
      }
      WgmmaWait<0>();
      FenceRegisters(sums_);
      Release(previous);
      Store(place);
    }
  }

 private:
  __device__ __forceinline__ void Multiply(int32_t stage) {
    const uint32_t base = stages_ + stage * params_.stage_bytes;
    const uint64_t a = RowsDescriptor(base + group_ * kGroupRows * kPanelRowBytes);
    const uint64_t b = OperandDescriptor(base + params_.weight_offset, 0);
    WgmmaFence();
#pragma unroll
    for (int32_t panel = 0; panel < kPanels; ++panel) {
      const uint64_t a_panel = a + (panel * params_.x_rows * kPanelRowBytes >> 4);
      const uint64_t b_panel = b + (panel * params_.tile_columns * kPanelRowBytes >> 4);
#pragma unroll
      for (int32_t k = 0; k < kPanelColumns / 16; ++k) {
        WgmmaColumns<T, kColumns>::Run(sums_, a_panel + k * 2, b_panel + k * 2);
      }
    }
    WgmmaCommit();
  }

  // Up to eight rows stand for all groups of eight.
  __device__ __forceinline__ uint64_t RowsDescriptor(uint32_t address) const {
    const uint64_t descriptor = OperandDescriptor(address, 0);
    return params_.x_rows > 8 ? descriptor : descriptor & ~(0x3fffULL << 32);
  }

  // To the producers of all blocks that bring parts of x here.
  __device__ __forceinline__ void Release(int32_t stage) {
    __syncwarp();
    if (lane_ < params_.cluster) {
      ArriveAt(barriers_.empty[stage], lane_);
    }
  }

  // The lane's rows are this one and the one eight behind it.
  __device__ __forceinline__ int32_t FirstRow(const TilePlace& place) const {
    return place.row * params_.tile_rows + static_cast<int32_t>(threadIdx.x) / 32 * 16 + lane_ / 4;
  }

  // At a tile's begin, so that none ends with a trip to memory.
  __device__ __forceinline__ void LoadScales(const TilePlace& place) {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      const int32_t row = min(FirstRow(place) + 8 * half, params_.num_rows - 1);
      scales_[half] = RowScale(params_.row_scales, row);
    }
  }

  __device__ __forceinline__ void Store(const TilePlace& place) {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      const int32_t row = FirstRow(place) + 8 * half;
      if (row >= params_.num_rows) {
        continue;
      }
      if constexpr (kGated) {
        StoreGated(row, scales_[half], place.column * (params_.tile_columns / 2), half);
      } else {
        StoreFloats(row, scales_[half], place.column * params_.tile_columns, half);
      }
    }
  }

  __device__ __forceinline__ void StoreFloats(int32_t row,
                                              float scale,
                                              int32_t first,
                                              int32_t half) {
    const int32_t end = min(params_.tile_columns, params_.num_columns - first);
    float* out = static_cast<float*>(params_.out) + int64_t{row} * params_.num_columns + first;
    const bool pairs = params_.num_columns % 2 == 0;
#pragma unroll
    for (int32_t i = 0; i < kColumns / 8; ++i) {
      const int32_t column = 8 * i + lane_ % 4 * 2;
      // Zeros past K turn -0 into 0: so does every tiling.
      const float low = (sums_[4 * i + 2 * half] + 0.0F) * scale;
      const float high = (sums_[4 * i + 2 * half + 1] + 0.0F) * scale;
      if (column >= end) {
        break;
      }
      if (pairs) {
        *reinterpret_cast<float2*>(out + column) = make_float2(low, high);
      } else {
        out[column] = low;
        if (column + 1 < end) {
          out[column + 1] = high;
        }
      }
    }
  }

  // Blocks of eight columns alternate between gate and up. num_columns / 2 is a multiple of 8.
  __device__ __forceinline__ void StoreGated(int32_t row,
                                             float scale,
                                             int32_t first,
                                             int32_t half) {
    const int32_t features = params_.num_columns / 2;
    const int32_t end = min(params_.tile_columns / 2, features - first);
    T* out = static_cast<T*>(params_.out) + int64_t{row} * features + first;
#pragma unroll
    for (int32_t i = 0; i < kColumns / 16; ++i) {
      const int32_t column = 8 * i + lane_ % 4 * 2;
      if (column >= end) {
        break;
      }
      const float* gate = sums_ + 8 * i + 2 * half;
      *reinterpret_cast<uint32_t*>(out + column) =
          Pack<T>(GatedProduct((gate[0] + 0.0F) * scale, (gate[4] + 0.0F) * scale),
                  GatedProduct((gate[1] + 0.0F) * scale, (gate[5] + 0.0F) * scale));
    }
  }

  const HopperParams& params_;
  Barriers& barriers_;
  const uint32_t stages_;
  const int32_t group_;
  const int32_t lane_;
  float sums_[kColumns / 2];
  float scales_[2];
};

template <int32_t kGroups>
inline constexpr int32_t kThreads = kGroups* kGroupThreads + (kGroups > 1 ? kGroupThreads : 32);

template <typename T, int32_t kColumns, int32_t kGroups, bool kGated>
__global__ void __launch_bounds__(kThreads<kGroups>, 1)
    MatMulHopperKernel(const __grid_constant__ HopperParams params,
                       const __grid_constant__ CUtensorMap x_map,
                       const __grid_constant__ CUtensorMap weight_map) {
  extern __shared__ uint8_t dynamic_shared[];
  __shared__ Barriers barriers;
  const uint32_t stages = (SharedAddress(dynamic_shared) + 1023U) & ~1023U;
  constexpr int32_t kPanels = SlabPanels(kColumns, kGroups);
  constexpr int32_t kProducer = kGroups * kGroupThreads;
  // The same in all lanes, so that the branch below is known to be uniform, as wgmma wants it.
  const int32_t warp = __shfl_sync(0xffffffffU, static_cast<int32_t>(threadIdx.x) / 32, 0);
  AllowNextKernel();
  if (threadIdx.x == kProducer) {
    PrefetchTensorMap(x_map);
    PrefetchTensorMap(weight_map);
    barriers.Init(params.num_stages, 4 * kGroups * params.cluster);
  }
  if (params.cluster > 1) {
    ClusterBarrier();
  } else {
    __syncthreads();
  }
  if (warp >= kProducer / 32) {
    if constexpr (kGroups > 1) {
      LowerRegisters<40>();
    }
    if (threadIdx.x == kProducer) {
      Producer<kPanels, kGated>(params, x_map, weight_map, barriers, stages).Run();
    }
  } else {
    if constexpr (kGroups > 1) {
      RaiseRegisters<232>();
    }
    Consumer<T, kColumns, kPanels, kGated>(params, barriers, stages).Run();
  }
  // A block's memory must outlast what its neighbours send it.
  if (params.cluster > 1) {
    __syncwarp();
    ClusterBarrier();
  }
}

}  // namespace ringserve::cuda::matmul
