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

// Panels of a stage of MatMulRowsKernel, and its widest tile and most rows.
inline constexpr int32_t kRowsPanels = 4;
inline constexpr int32_t kRowsColumns = 64;
inline constexpr int32_t kRowsMax = 32;

struct HopperParams {
  void* out;
  const float* row_scales;  // null: ones
  uint64_t weight_policy;   // how the second-level cache treats the weights
  int32_t num_rows;
  int32_t num_columns;  // rows of the weight
  int32_t num_slabs;    // of SlabPanels along K; what lies past K counts as zeros
  int32_t num_stages;
  int32_t
      ahead_slabs;  // past the stages, asked for into the second-level cache before x is waited for
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
  CUtensorMap x_map;
  CUtensorMap weight_map;
  HopperParams params;
  int32_t grid;
  int32_t shared_bytes;
};

// kColumns: the N of wgmma, at least params.tile_columns; kGroups: warpgroups of 64 rows.
template <typename T, int32_t kColumns, int32_t kGroups, bool kGated>
cudaError_t LaunchHopper(const HopperLaunch& launch, cudaStream_t stream);

// By MatMulRowsKernel: params.x_rows is 8 * kBlocks, kBlocks 1, 2 or 4; params.tile_columns a
// multiple of 16 up to kRowsColumns; params.cluster is 1.
template <typename T, int32_t kBlocks, bool kGated>
cudaError_t LaunchRows(const HopperLaunch& launch, cudaStream_t stream);

}  // namespace ringserve::cuda::matmul
