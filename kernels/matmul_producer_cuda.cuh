// The producer's half of the sm_90a matrix product, and what it shares with the consumers.
#pragma once

#include <cstdint>

#include <cuda.h>

#include "kernels/hopper_cuda.cuh"
#include "kernels/matmul_params_cuda.h"

namespace ringserve::cuda::matmul {

inline constexpr int32_t kMaxStages = 16;
inline constexpr int32_t kGroupRows = 64;
inline constexpr int32_t kGroupThreads = 128;

struct Barriers {
  TransactionBarrier full[kMaxStages];
  TransactionBarrier empty[kMaxStages];

  // One thread; `arrivals` say that a stage is free, `producers` what comes into it.
  __device__ __forceinline__ void Init(int32_t num_stages,
                                       int32_t arrivals,
                                       int32_t producers = 1) {
    for (int32_t i = 0; i < num_stages; ++i) {
      full[i].Init(static_cast<uint32_t>(producers));
      empty[i].Init(static_cast<uint32_t>(arrivals));
    }
    FenceBarrierInit();
  }
};

// One box of a weight; the whole row of panels of a stage is asked for one after the other.
template <bool kGated>
__device__ __forceinline__ void LoadWeights(const HopperParams& params,
                                            const CUtensorMap& map,
                                            TransactionBarrier& barrier,
                                            uint32_t to,
                                            int32_t panel,
                                            int32_t tile) {
  if constexpr (kGated) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        ".L2::cache_hint [%0], [%1, {%3, %4, %4, %5}], [%2], %6;" ::"r"(to),
        "l"(&map),
        "r"(barrier.address()),
        "r"(panel * kPanelColumns),
        "r"(0),
        "r"(tile * (params.tile_columns / 16)),
        "l"(params.weight_policy)
        : "memory");
  } else {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        ".L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to),
        "l"(&map),
        "r"(barrier.address()),
        "r"(panel * kPanelColumns),
        "r"(tile * params.tile_columns),
        "l"(params.weight_policy)
        : "memory");
  }
}

// The same box into the second-level cache only.
template <bool kGated>
__device__ __forceinline__ void PrefetchWeights(const HopperParams& params,
                                                const CUtensorMap& map,
                                                int32_t panel,
                                                int32_t tile) {
  if constexpr (kGated) {
    asm volatile(
        "cp.async.bulk.prefetch.tensor.4d.L2.global.tile [%0, {%1, %2, %2, %3}];" ::"l"(&map),
        "r"(panel * kPanelColumns),
        "r"(0),
        "r"(tile * (params.tile_columns / 16))
        : "memory");
  } else {
    asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1, %2}];" ::"l"(&map),
                 "r"(panel * kPanelColumns),
                 "r"(tile * params.tile_columns)
                 : "memory");
  }
}

// Into the same place of every block of the cluster, announced on each one's barrier.
__device__ __forceinline__ void LoadBoxToCluster(const CUtensorMap& map,
                                                 TransactionBarrier& barrier,
                                                 uint32_t to,
                                                 int32_t x,
                                                 int32_t y,
                                                 uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to),
      "l"(&map),
      "r"(barrier.address()),
      "r"(x),
      "r"(y),
      "h"(blocks)
      : "memory");
}

__device__ __forceinline__ int32_t ClusterRank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int32_t>(rank);
}

__device__ __forceinline__ void ClusterBarrier() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

__device__ __forceinline__ void ArriveAt(const TransactionBarrier& barrier,
                                         int32_t block,
                                         uint32_t times = 1) {
  asm volatile(
      "{\n.reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote], %2;\n}\n" ::"r"(barrier.address()),
      "r"(block),
      "r"(times)
      : "memory");
}

// Which tile a block works on: tiles of x run fastest within groups of row tiles, so that the tiles
// in flight share rows of x and of the weight in the second-level cache.
struct TilePlace {
  int32_t row;
  int32_t column;

  __device__ __forceinline__ TilePlace(const HopperParams& params, int32_t index) {
    const int32_t per_group = params.group_row_tiles * params.column_tiles;
    const int32_t first = index / per_group * params.group_row_tiles;
    const int32_t rows = min(params.group_row_tiles, params.row_tiles - first);
    const int32_t within = index % per_group;
    // Blocks of a cluster are neighbours in `column`.
    const int32_t cluster = params.cluster;
    const int32_t step = within / cluster;
    row = first + step % rows;
    column = step / rows * cluster + within % cluster;
  }
};

// A place in the ring of stages and the parity of its phase.
struct StagePlace {
  int32_t stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void Advance(int32_t num_stages) {
    if (++stage == num_stages) {
      stage = 0;
      parity ^= 1;
    }
  }

  // As `count` times Advance.
  __device__ __forceinline__ void Skip(int32_t count, int32_t num_stages) {
    const int32_t to = stage + count;
    stage = to % num_stages;
    parity ^= static_cast<uint32_t>(to / num_stages) & 1U;
  }
};

// One thread.
template <int32_t kPanels, bool kGated>
class Producer {
 public:
  __device__ __forceinline__ Producer(const HopperParams& params,
                                      const CUtensorMap& x_map,
                                      const CUtensorMap& weight_map,
                                      Barriers& barriers,
                                      uint32_t stages)
      : params_(params),
        x_map_(x_map),
        weight_map_(weight_map),
        barriers_(barriers),
        stages_(stages),
        rank_(ClusterRank()) {}

  __device__ __forceinline__ void Run() {
    const auto step = static_cast<int32_t>(gridDim.x);
    auto tile = static_cast<int32_t>(blockIdx.x);
    // The weights of the first stages do not depend on earlier kernels.
    const int32_t early = min(params_.num_stages, params_.num_slabs);
    TilePlace place(params_, tile);
#pragma unroll 1
    for (int32_t slab = 0; slab < early; ++slab) {
      StageWeights(slab, slab, place);
    }
    const int32_t ahead = min(early + params_.ahead_slabs, params_.num_slabs);
#pragma unroll 1
    for (int32_t panel = early * kPanels; panel < ahead * kPanels; ++panel) {
      PrefetchWeights<kGated>(params_, weight_map_, panel, place.column);
    }
    WaitForPreviousKernel();
    StagePlace at;
#pragma unroll 1
    for (int32_t slab = 0; slab < params_.num_slabs; ++slab) {
      if (slab >= early) {
        barriers_.empty[at.stage].Wait(at.parity ^ 1);
        StageWeights(at.stage, slab, place);
      }
      StageRows(at.stage, slab, place);
      at.Advance(params_.num_stages);
    }
    for (tile += step; tile < params_.num_tiles; tile += step) {
      place = TilePlace(params_, tile);
#pragma unroll 1
      for (int32_t slab = 0; slab < params_.num_slabs; ++slab) {
        barriers_.empty[at.stage].Wait(at.parity ^ 1);
        StageWeights(at.stage, slab, place);
        StageRows(at.stage, slab, place);
        at.Advance(params_.num_stages);
      }
    }
  }

 private:
  __device__ __forceinline__ void StageWeights(int32_t stage,
                                               int32_t slab,
                                               const TilePlace& place) {
    TransactionBarrier& full = barriers_.full[stage];
    full.ArriveExpecting(
        static_cast<uint32_t>(kPanels * (params_.x_rows + params_.tile_columns) * kPanelRowBytes));
    const uint32_t to = stages_ + stage * params_.stage_bytes + params_.weight_offset;
#pragma unroll
    for (int32_t i = 0; i < kPanels; ++i) {
      LoadWeights<kGated>(params_,
                          weight_map_,
                          full,
                          to + i * params_.tile_columns * kPanelRowBytes,
                          slab * kPanels + i,
                          place.column);
    }
  }

  __device__ __forceinline__ void StageRows(int32_t stage, int32_t slab, const TilePlace& place) {
    TransactionBarrier& full = barriers_.full[stage];
    const int32_t part = params_.x_rows / params_.cluster;
    const uint32_t to = stages_ + stage * params_.stage_bytes + rank_ * part * kPanelRowBytes;
#pragma unroll
    for (int32_t i = 0; i < kPanels; ++i) {
      const uint32_t panel_to = to + i * params_.x_rows * kPanelRowBytes;
      const int32_t x = (slab * kPanels + i) * kPanelColumns;
      const int32_t y = place.row * params_.tile_rows + rank_ * part;
      if (params_.cluster == 1) {
        LoadBox2(x_map_, full, panel_to, x, y);
      } else {
        LoadBoxToCluster(
            x_map_, full, panel_to, x, y, static_cast<uint16_t>((1U << params_.cluster) - 1));
      }
    }
  }

  const HopperParams& params_;
  const CUtensorMap& x_map_;
  const CUtensorMap& weight_map_;
  Barriers& barriers_;
  const uint32_t stages_;
  const int32_t rank_;
};

}  // namespace ringserve::cuda::matmul
