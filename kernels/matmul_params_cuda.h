// What the host tells the sm_90a matrix product, and how it is launched.
#pragma once

#include <cstdint>

#include <cuda.h>
#include <cuda_runtime.h>

namespace ringserve::cuda::matmul {

// Panels of a stage: 8 to 32 KiB of weights, so that what a stage costs is small beside its copy.
// Known when compiled: wgmma in a loop of unknown length runs serialized.
constexpr int32_t SlabPanels(int32_t columns, int32_t groups) {
  return columns <= 32 ? 4 / groups : columns <= 64 ? 2 : columns <= 128 ? 2 / groups : 1;
}

struct HopperParams {
  void* out;
  uint64_t weight_policy;  // how the second-level cache treats the weights
  int32_t num_rows;
  int32_t num_columns;  // rows of the weight
  int32_t num_slabs;    // of SlabPanels along K; what lies past K counts as zeros
  int32_t num_stages;
  int32_t stage_bytes;
  int32_t weight_offset;  // of the weight's panels in a stage
  int32_t x_rows;         // rows of x in a stage: 8, 16, 32, 64, or 64 a warpgroup
  int32_t tile_rows;      // rows of x that a block computes: 64 a warpgroup
  int32_t tile_columns;   // weight rows that a block computes; a multiple of 8, of 16 if gated
  int32_t row_tiles;
  int32_t column_tiles;  // a multiple of `cluster`
  int32_t num_tiles;
  int32_t group_row_tiles;
  int32_t cluster;  // blocks that share x
};

struct HopperLaunch {
  HopperParams params;
  CUtensorMap x_map;
  CUtensorMap weight_map;
  int32_t grid;
  int32_t shared_bytes;
};

// kColumns: the N of wgmma, at least params.tile_columns; kGroups: warpgroups of 64 rows.
template <typename T, int32_t kColumns, int32_t kGroups, bool kGated>
cudaError_t LaunchHopper(const HopperLaunch& launch, cudaStream_t stream);

}  // namespace ringserve::cuda::matmul
