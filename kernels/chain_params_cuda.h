// What the host tells the chain kernel, and how it is launched.
#pragma once

#include <cstdint>

#include <cuda.h>
#include <cuda_runtime.h>

#include "kernels/chain_cuda.h"

namespace ringserve::cuda::chain {

inline constexpr int32_t kWarps = 8;  // that multiply, 16 weight rows each
inline constexpr int32_t kMaxPanels = 6;
inline constexpr int32_t kMaxNormDim = 8192;
inline constexpr int32_t kStaticBytes = 1280;  // of a block's shared memory, at most

enum class Kind : int32_t { kProduct, kGated, kNorm };

struct Op {
  Kind kind;
  int32_t num_blocks;  // that work on it
  void* out;
  // Of a product. Block b computes tiles b, b + grid, ...; a norm has no tiles.
  int32_t num_columns;   // rows of the weight
  int32_t tile_columns;  // a multiple of 16
  int32_t num_tiles;
  int32_t num_panels;  // of 64 columns, along K
  int32_t panels;      // of a stage; those past K count as zeros
  // The first so many panels of x are there once every block has ended its first tile of the op
  // before, which says so then (announces_first).
  int32_t early_panels;
  bool announces_first;
  bool reads_norm;  // x is the row that every block has made by itself of the norm before
  // Of a norm.
  int32_t hidden_dim;
  float eps;
  float* x;
  const float* residual;
  const float* weight;
};

struct Params {
  CUtensorMap x_maps[kMaxChainOps];
  CUtensorMap weight_maps[kMaxChainOps];
  Op ops[kMaxChainOps];
  // Blocks that ended an op, [kMaxChainOps], or their first tile of an op, [kMaxChainOps]; threads
  // that have left.
  int32_t* counters;
  int32_t num_ops;
  int32_t num_rows;
  int32_t stage_rows;  // of x: 8, 16 or 32
  int32_t num_stages;
  int32_t stage_bytes;
  // If not 0, every block makes every norm by itself, of one row of so many columns. It keeps what
  // the norm made after its stages, and x in registers; the keeper writes both to where they
  // belong, x once every block has read what was there: a norm is announced by all blocks, when
  // they have read.
  int32_t norm_dim;
};

// Every block needs all rows of x. Many take as much of the second-level cache's bandwidth as
// weights: then two blocks bring them for each other. Llama-3-8B's chain of a layer for 32 rows on
// an H200: 122.2 us without, 119.5 with.
constexpr int32_t kMaxCluster = 2;

constexpr int32_t ClusterOf(int32_t stage_rows) {
  return stage_rows > 8 ? kMaxCluster : 1;
}

// Of a block that makes the norms: what a norm made, and zeros as far as a stage reaches.
constexpr int32_t NormBytes(int32_t norm_dim) {
  return norm_dim == 0 ? 0 : (norm_dim + kMaxPanels * 64) * 2;
}

inline constexpr int32_t kNumCounters = 2 * kMaxChainOps + 1;

struct Launch {
  Params params;
  int32_t grid;
  int32_t shared_bytes;
};

// How many clusters of two blocks run at a time on the current device.
cudaError_t FindNumPairs(int32_t num_sms, int32_t& num_pairs);

template <typename T>
cudaError_t LaunchKernel(const Launch& launch, cudaStream_t stream);

}  // namespace ringserve::cuda::chain
