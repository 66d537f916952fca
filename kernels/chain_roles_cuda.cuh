// The parts that the warps of a chain's blocks play: one thread brings weights, one brings rows of
// x, one warp brings what the ends of products need beside sums, eight warps multiply and
// normalise.
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
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
  } while (seen < target);
}

// One thread, after a barrier that follows what its block wrote.
__device__ __forceinline__ void Announce(int32_t* counter) {
  asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(counter) : "memory");
}

// The block that writes what all blocks make, and ends the counters: one that has the fewest tiles.
__device__ __forceinline__ bool IsKeeper() {
  return blockIdx.x == gridDim.x - 1;
}

// By three threads of a block, each after its last use of the counters: of those that end an op, of
// those that bring rows, and of those that bring what ends need.
__device__ __forceinline__ void Leave(const Params& params) {
  Announce(params.counters + kNumCounters - 1);
}

// What the warps of a block share.
struct Block {
  Barriers barriers;
  Op ops[kMaxChainOps];  // a look at the parameters takes ten times as long as at these
  // Of a cluster: every block's consumers are done with a stage, which is then free for rows.
  TransactionBarrier rows_free[matmul::kMaxStages];
  float partial[kMaxNormThreads / 32];
  alignas(16) float scales[kMaxChainRows];  // that the op at hand multiplies by, if it does
  TransactionBarrier ends_there;            // these scales, or what is added to
  TransactionBarrier ends_used;             // by every thread that multiplies
};

// The block's part of a stage's rows of x, for every block of the cluster.
template <int32_t kCluster>
__device__ __forceinline__ void LoadX(
    const CUtensorMap& map, TransactionBarrier& full, uint32_t to, int32_t row, int32_t panel) {
  if constexpr (kCluster == 1) {
    LoadBox3(map, full, to, 0, row, panel);
  } else {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(to),
        "l"(&map),
        "r"(full.address()),
        "r"(0),
        "r"(row),
        "r"(panel),
        "h"(static_cast<uint16_t>((1 << kCluster) - 1))
        : "memory");
  }
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

// Of the block's tiles of an op, the first of them `tile`.
__device__ __forceinline__ int32_t NumTiles(const Op& op, int32_t tile) {
  const auto step = static_cast<int32_t>(gridDim.x);
  return tile < op.num_tiles ? CeilDiv(op.num_tiles - tile, step) : 0;
}

// One thread. A stage is full when this one and the one that brings rows have said what comes, and
// all of that is there.
__device__ __forceinline__ void BringWeights(const Params& params, Block& block, uint32_t stages) {
  Barriers& barriers = block.barriers;
  const int32_t num_stages = params.num_stages;
  const int32_t stage_bytes = params.stage_bytes;
  StagePlace place;
#pragma unroll 1
  for (int32_t i = 0; i < params.num_ops; ++i) {
    const Op op = block.ops[i];
    const CUtensorMap& map = params.weight_maps[i];
    const bool gated = op.kind == Kind::kGated;
    const int32_t x_bytes = op.panels * params.stage_rows * kPanelRowBytes;
    const int32_t weight_bytes = op.panels * op.tile_columns * kPanelRowBytes;
    for (auto tile = static_cast<int32_t>(blockIdx.x); tile < op.num_tiles;
         tile += static_cast<int32_t>(gridDim.x)) {
#pragma unroll 1
      for (int32_t panel = 0; panel < op.num_panels; panel += op.panels) {
        TransactionBarrier& full = barriers.full[place.stage];
        barriers.empty[place.stage].Wait(place.parity ^ 1);
        full.ArriveExpecting(static_cast<uint32_t>(weight_bytes));
        const uint32_t to = stages + static_cast<uint32_t>(place.stage * stage_bytes + x_bytes);
        LoadWeights(map, gated, full, to, tile * op.tile_columns, panel);
        place.Advance(num_stages);
      }
    }
  }
}

// One thread. Of an op that reads what the block has normalised it says of every stage that no rows
// come.
template <int32_t kCluster>
__device__ __forceinline__ void BringRows(const Params& params, Block& block, uint32_t stages) {
  TransactionBarrier* const free = kCluster == 1 ? block.barriers.empty : block.rows_free;
  const int32_t part = kCluster == 1 ? 0 : matmul::ClusterRank();
  const int32_t part_rows = params.stage_rows / kCluster;
  const int32_t num_stages = params.num_stages;
  const int32_t stage_bytes = params.stage_bytes;
  StagePlace place;
  bool has_left = false;
  WaitForPreviousKernel();
#pragma unroll 1
  for (int32_t i = 0; i < params.num_ops; ++i) {
    const Op op = block.ops[i];
    const CUtensorMap& map = params.x_maps[i];
    const int32_t part_bytes = op.panels * part_rows * kPanelRowBytes;
    auto tile = static_cast<int32_t>(blockIdx.x);
    if (op.reads_norm) {
      if (i == params.num_ops - 1) {
        Leave(params);
        has_left = true;
      }
      const int32_t slabs = NumTiles(op, tile) * CeilDiv(op.num_panels, op.panels);
#pragma unroll 1
      for (int32_t slab = 0; slab < slabs; ++slab) {
        free[place.stage].Wait(place.parity ^ 1);
        block.barriers.full[place.stage].Arrive();
        place.Advance(num_stages);
      }
      continue;
    }
    const int32_t num_before = i > 0 ? block.ops[i - 1].num_blocks : 0;
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
          if (i > 1 && block.ops[i - 2].kind == Kind::kNorm) {
            // What this op writes may be what every block has added to x there.
            Await(params.counters + i - 2, block.ops[i - 2].num_blocks);
          }
          FenceAsyncProxyGlobal();
          waited = true;
        }
        TransactionBarrier& full = block.barriers.full[place.stage];
        free[place.stage].Wait(place.parity ^ 1);
        full.ArriveExpecting(static_cast<uint32_t>(kCluster * part_bytes));
        LoadX<kCluster>(
            map,
            full,
            stages + static_cast<uint32_t>(place.stage * stage_bytes + part * part_bytes),
            part * part_rows,
            panel);
        place.Advance(num_stages);
      }
    }
  }
  if (!has_left) {
    Leave(params);
  }
  if (IsKeeper()) {
    int32_t* done = params.counters + kNumCounters - 1;
    Await(done, 3 * static_cast<int32_t>(gridDim.x));
    for (int32_t i = 0; i < kNumCounters; ++i) {
      params.counters[i] = 0;
    }
  }
}

}  // namespace ringserve::cuda::chain
