// The parts that the warps of a chain's blocks play: one thread brings weights, one brings rows of
// x, eight warps multiply and normalise.
//
// A block's tiles of all ops, one after the other, are one sequence of slabs through one ring of
// stages. Weights depend on nothing and run ahead of it as far as the ring reaches, over the ends
// of ops; rows of x follow once every block has ended the op before.
#pragma once

#include <cstdint>

#include "kernels/chain_params_cuda.h"
#include "kernels/matmul_producer_cuda.cuh"
#include "kernels/matmul_rows_cuda.cuh"
#include "kernels/rmsnorm_cuda.cuh"

namespace ringserve::cuda::chain {

using matmul::Barriers;
using matmul::StagePlace;

inline constexpr uint64_t kEvictFirst = 0x12f0000000000000U;  // read once a step
inline constexpr int32_t kWorkersBarrier = 1;

// Waits until `target` blocks have announced the end of an op.
__device__ __forceinline__ void Await(const int32_t* counter, int32_t target) {
  int32_t seen = 0;
  do {
    asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
  } while (seen < target);
  asm volatile("fence.acq_rel.gpu;" ::: "memory");
}

// One thread, after a barrier that follows what its block wrote.
__device__ __forceinline__ void Announce(int32_t* counter) {
  asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(counter) : "memory");
}

// A stage's panels of a weight, from row `first` and panel `panel` on.
__device__ __forceinline__ void LoadWeights(const CUtensorMap& map,
                                            bool gated,
                                            TransactionBarrier& full,
                                            uint32_t to,
                                            int32_t first,
                                            int32_t panel) {
  if (gated) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        ".L2::cache_hint [%0], [%1, {%3, %3, %3, %4, %5}], [%2], %6;" ::"r"(to),
        "l"(&map),
        "r"(full.address()),
        "r"(0),
        "r"(first / 16),
        "r"(panel),
        "l"(kEvictFirst)
        : "memory");
  } else {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        ".L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(to),
        "l"(&map),
        "r"(full.address()),
        "r"(0),
        "r"(first),
        "r"(panel),
        "l"(kEvictFirst)
        : "memory");
  }
}

// The same into the second-level cache only.
__device__ __forceinline__ void PrefetchWeights(const CUtensorMap& map,
                                                bool gated,
                                                int32_t first,
                                                int32_t panel) {
  if (gated) {
    asm volatile(
        "cp.async.bulk.prefetch.tensor.5d.L2.global.tile [%0, {%1, %1, %1, %2, %3}];" ::"l"(&map),
        "r"(0),
        "r"(first / 16),
        "r"(panel)
        : "memory");
  } else {
    asm volatile("cp.async.bulk.prefetch.tensor.3d.L2.global.tile [%0, {%1, %2, %3}];" ::"l"(&map),
                 "r"(0),
                 "r"(first),
                 "r"(panel)
                 : "memory");
  }
}

// What follows the first `skip` stages of the block, as far as ahead_bytes reach.
__device__ __forceinline__ void PrefetchAfter(const Params& params, int32_t skip) {
  int32_t left = params.ahead_bytes;
  for (int32_t i = 0; i < params.num_ops; ++i) {
    const Op op = params.ops[i];
    for (auto tile = static_cast<int32_t>(blockIdx.x); tile < op.num_tiles;
         tile += static_cast<int32_t>(gridDim.x)) {
      for (int32_t panel = 0; panel < op.num_panels; panel += op.panels) {
        if (skip-- > 0) {
          continue;
        }
        if (left <= 0) {
          return;
        }
        PrefetchWeights(
            params.weight_maps[i], op.kind == Kind::kGated, tile * op.tile_columns, panel);
        left -= op.panels * op.tile_columns * kPanelRowBytes;
      }
    }
  }
}

// One thread. What an op is like stays in registers: a look at the parameters takes as long as a
// product of 16 columns.
__device__ __forceinline__ void BringWeights(const Params& params,
                                             Barriers& barriers,
                                             uint32_t stages) {
  const int32_t num_stages = params.num_stages;
  const int32_t stage_bytes = params.stage_bytes;
  int32_t early = num_stages;
  StagePlace place;
#pragma unroll 1
  for (int32_t i = 0; i < params.num_ops; ++i) {
    const Op op = params.ops[i];
    const CUtensorMap& map = params.weight_maps[i];
    const bool gated = op.kind == Kind::kGated;
    const int32_t x_bytes = op.panels * kStageRows * kPanelRowBytes;
    const int32_t bytes = x_bytes + op.panels * op.tile_columns * kPanelRowBytes;
    for (auto tile = static_cast<int32_t>(blockIdx.x); tile < op.num_tiles;
         tile += static_cast<int32_t>(gridDim.x)) {
#pragma unroll 1
      for (int32_t panel = 0; panel < op.num_panels; panel += op.panels) {
        if (early-- == 0) {
          PrefetchAfter(params, num_stages);
        }
        TransactionBarrier& full = barriers.full[place.stage];
        barriers.empty[place.stage].Wait(place.parity ^ 1);
        full.ArriveExpecting(static_cast<uint32_t>(bytes));
        const uint32_t to = stages + static_cast<uint32_t>(place.stage * stage_bytes + x_bytes);
        LoadWeights(map, gated, full, to, tile * op.tile_columns, panel);
        place.Advance(num_stages);
      }
    }
  }
}

// One thread. The bytes are announced together with the weights', before they come or after.
__device__ __forceinline__ void BringRows(const Params& params,
                                          Barriers& barriers,
                                          uint32_t stages) {
  const int32_t num_stages = params.num_stages;
  const int32_t stage_bytes = params.stage_bytes;
  StagePlace place;
  WaitForPreviousKernel();
#pragma unroll 1
  for (int32_t i = 0; i < params.num_ops; ++i) {
    const Op op = params.ops[i];
    const CUtensorMap& map = params.x_maps[i];
    auto tile = static_cast<int32_t>(blockIdx.x);
    const int32_t num_before = i > 0 ? params.ops[i - 1].num_blocks : 0;
    if (tile < op.num_tiles && op.early_panels > 0) {
      Await(params.counters + kMaxChainOps + i - 1, num_before);
      FenceAsyncProxyGlobal();
    }
    bool waited = i == 0;
    for (; tile < op.num_tiles; tile += static_cast<int32_t>(gridDim.x)) {
#pragma unroll 1
      for (int32_t panel = 0; panel < op.num_panels; panel += op.panels) {
        if (!waited && panel + op.panels > op.early_panels) {
          Await(params.counters + i - 1, num_before);
          FenceAsyncProxyGlobal();
          waited = true;
        }
        barriers.empty[place.stage].Wait(place.parity ^ 1);
        LoadBox3(map,
                 barriers.full[place.stage],
                 stages + static_cast<uint32_t>(place.stage * stage_bytes),
                 0,
                 0,
                 panel);
        place.Advance(num_stages);
      }
    }
  }
}

}  // namespace ringserve::cuda::chain
