// What the host tells the chain kernel, and how it is launched.
#pragma once

#include <cstdint>

#include <cuda.h>
#include <cuda_runtime.h>

#include "kernels/chain_cuda.h"

namespace ringserve::cuda::chain {

inline constexpr int32_t kWarps = 8;  // that multiply, 16 weight rows each
inline constexpr int32_t kMaxPanels = 6;
inline constexpr int32_t kMaxNormDim = kMaxChainNormDim;
inline constexpr int32_t kStaticBytes = 1536;  // of a block's shared memory, at most

enum class Kind : int32_t { kProduct, kGated, kNorm };

// What an op has to do with the scales of a deferred norm.
enum class Scales : int32_t {
  kNone,
  kMake,  // a norm that makes them: what multiplies by them is not in the chain
  kSum,   // a product that multiplies by those of a norm in the chain, out of Params::squares
  kRead,  // a product that multiplies by those of a norm before the chain
};

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
  // Of a norm: deferred, or one that a product makes, it leaves sums of squares. A product makes a
  // deferred norm that adds its result: that is not written, `out` is the norm's.
  bool defers;
  Scales scales;
  uint32_t ends_parity;  // of the block's ops before this one that have ends; the kernel counts
  int32_t hidden_dim;
  float eps;
  float* x;
  const float* residual;
  const float* weight;
  float* made_scales;       // of a deferred norm, or the product that sums them for all
  const float* row_scales;  // that a product multiplies by
};

// Whether what a product makes is added to x when it ends, and whether it is multiplied by scales.
constexpr bool Adds(const Op& op) {
  return op.kind != Kind::kNorm && op.defers;
}

constexpr bool Multiplies(const Op& op) {
  return op.scales == Scales::kSum || op.scales == Scales::kRead;
}

constexpr bool HasEnds(const Op& op) {
  return Adds(op) || Multiplies(op);
}

// Of a block that adds to x: the x of a tile, then the norm's weights of its columns.
constexpr int32_t AddedBytes(int32_t num_rows, int32_t tile_columns) {
  return (num_rows + 1) * tile_columns * 4;
}

struct Params {
  CUtensorMap x_maps[kMaxChainOps];
  CUtensorMap weight_maps[kMaxChainOps];
  Op ops[kMaxChainOps];
  // Blocks that ended an op, [kMaxChainOps], or their first tile of an op, [kMaxChainOps]; rows
  // whose scales are there for an op, [kMaxChainOps]; threads that have left.
  int32_t* counters;
  // [num_rows, kMaxNormDim / 16]: of a deferred norm's x, over 16 columns.
  float* squares;
  int32_t num_ops;
  int32_t num_rows;
  int32_t stage_rows;  // of x: 8, 16 or 32
  int32_t num_stages;
  int32_t stage_bytes;
  int32_t added_bytes;  // the most AddedBytes of an op
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

inline constexpr int32_t kNumCounters = 3 * kMaxChainOps + 1;
inline constexpr int32_t kSquaresStride = kMaxNormDim / 16;

struct Launch {
  Params params;
  // What params.ops are made of: of a product that makes a norm, the product.
  const ChainOp* sources[kMaxChainOps];
  int32_t grid;
  int32_t shared_bytes;
};

// How many clusters of two blocks run at a time on the current device.
cudaError_t FindNumPairs(int32_t num_sms, int32_t& num_pairs);

template <typename T>
cudaError_t LaunchKernel(const Launch& launch, cudaStream_t stream);

}  // namespace ringserve::cuda::chain
