// Attention of one row (attention_row_sm90_cuda.cu): what a block's shared memory holds, and the
// cluster.
#pragma once

#include "kernels/attention_cuda_params.cuh"
#include "kernels/attention_kernels_cuda.h"
#include "kernels/cuda_util.cuh"

namespace ringserve::cuda::row {

inline constexpr int32_t kBlocks = kRowBlocks;  // of a cluster
inline constexpr int32_t kWarps = 8;
inline constexpr int32_t kThreads = 32 * kWarps;
inline constexpr int32_t kQuarters = 4;  // of a tile
static_assert(kMaxRowTiles * kQuarters <= kBlocks * kWarps);

template <int32_t kHeadDim>
struct Shape {
  static constexpr int32_t kTile = TileKeys(kHeadDim);
  static constexpr int32_t kKeys = kTile / kQuarters;      // of a quarter
  static constexpr int32_t kColumns = kHeadDim / kBlocks;  // of the output, a block
  static constexpr int32_t kKeyBytes = kKeys * kHeadDim * 2;
  static constexpr int32_t kValueRowBytes = kColumns * 2;
  static constexpr int32_t kProbabilityBytes = kDecodeRows * kTile * 2;
  static constexpr int32_t kMaxTileBlocks = kTile / 8;  // and one more in all
  static_assert(kKeys == 32 && kColumns % 8 == 0);
};

// A block's shared memory, for items of up to so many tiles and heads.
template <int32_t kHeadDim>
struct Layout {
  using S = Shape<kHeadDim>;
  int32_t blocks;   // of the pool, that hold the item's keys
  int32_t rescale;  // [tiles][kDecodeRows]
  int32_t max;      // [quarters][kDecodeRows]
  int32_t sum;      // [quarters][heads][4]: of lane t of each row
  int32_t values;   // [keys][kColumns], 16-byte pieces swizzled
  int32_t scratch;  // keys of the block's quarters; then the probabilities of all tiles
  int32_t bytes;

  __host__ __device__ explicit Layout(const RowLimits& limits) {
    const int32_t num_tiles = limits.num_tiles;
    blocks = kDecodeRows * kHeadDim * 2;  // behind the queries
    rescale = blocks + num_tiles * S::kMaxTileBlocks * 4 + 64;
    max = rescale + num_tiles * kDecodeRows * 4;
    sum = max + num_tiles * kQuarters * kDecodeRows * 4;
    values = sum + num_tiles * kQuarters * limits.num_heads * 16;
    scratch = values + num_tiles * S::kTile * S::kValueRowBytes;
    const int32_t keys = CeilDiv(num_tiles * kQuarters, kBlocks) * S::kKeyBytes;
    const int32_t probabilities = num_tiles * S::kProbabilityBytes;
    bytes = scratch + (keys > probabilities ? keys : probabilities);
  }
};

__device__ __forceinline__ int32_t ClusterRank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int32_t>(rank);
}

__device__ __forceinline__ void ArriveAtCluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

__device__ __forceinline__ void AwaitCluster() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// The same place of shared memory in another block of the cluster.
__device__ __forceinline__ void StoreAt(int32_t block, uint32_t address, uint4 value) {
  asm volatile(
      "{\n.reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "st.shared::cluster.v4.u32 [remote], {%2, %3, %4, %5};\n}\n" ::"r"(address),
      "r"(block),
      "r"(value.x),
      "r"(value.y),
      "r"(value.z),
      "r"(value.w)
      : "memory");
}

template <int32_t kHeadDim>
__device__ __forceinline__ uint32_t ValueOffset(int32_t key, int32_t piece) {
  using S = Shape<kHeadDim>;
  const int32_t swizzled = S::kValueRowBytes == 32 ? piece ^ ((key >> 2) & 1) : piece;
  return static_cast<uint32_t>(key * S::kValueRowBytes + swizzled * 16);
}

// What a thread of a block knows.
template <int32_t kHeadDim>
struct Place {
  using S = Shape<kHeadDim>;

  __device__ __forceinline__ Place(const AttentionCudaParams& all,
                                   const AppendedRows& appended,
                                   const RowLimits& limits,
                                   uint8_t* memory)
      : params(all),
        rows(appended),
        max_heads(limits.num_heads),
        layout(limits),
        shared(memory),
        address(SharedAddress(memory)),
        item(all.items[blockIdx.x / kBlocks]),
        rank(ClusterRank()),
        warp(static_cast<int32_t>(threadIdx.x) / 32),
        lane(static_cast<int32_t>(threadIdx.x) % 32),
        quarter(warp * kBlocks + rank),
        has_quarter(quarter < item.num_tiles * kQuarters) {}

  // Where the keys of a warp's quarter lie, from the block's memory on.
  __device__ __forceinline__ uint32_t Keys(int32_t of_warp) const {
    return static_cast<uint32_t>(layout.scratch + of_warp * S::kKeyBytes);
  }

  __device__ __forceinline__ int32_t NewKey() const { return item.key_end - 1; }

  const AttentionCudaParams& params;
  const AppendedRows& rows;
  const int32_t max_heads;
  const Layout<kHeadDim> layout;
  uint8_t* const shared;
  const uint32_t address;
  const AttentionItem item;
  const int32_t rank;
  const int32_t warp;
  const int32_t lane;
  const int32_t quarter;  // of the item's, that the warp has
  const bool has_quarter;
};

}  // namespace ringserve::cuda::row
