// A chain of ops with few rows (chain_cuda.h): a persistent block on every SM.
#include "kernels/chain_ends_cuda.cuh"
#include "kernels/chain_norms_cuda.cuh"
#include "kernels/chain_roles_cuda.cuh"
#include "kernels/launch_cuda.h"

namespace ringserve::cuda::chain {
namespace {

constexpr int32_t kThreads = 32 * (kWarps + 3);
// A block has registers as if it were so large, 128 a thread: a quarter of a multiprocessor's has
// then room for two warps of 64 of a kernel that waits for this one, beside three of the block's.
constexpr int32_t kBoundThreads = 512;

// Warps that share units of a narrow tile, at most: each reads the unit's weights. 4096 columns of
// 14336 for 32 rows on an H200, a chain of all of a layer: 119.4 us with 8, 115.7 with 4.
constexpr int32_t kSharingWarps = 4;

// Of the threads that multiply, the one that tells others what they have done. That takes a warp a
// while: the last has no part in most products.
constexpr int32_t kTeller = 32 * (kWarps - 1);

constexpr int32_t kMaxDynamicBytes = 227 * 1024 - kStaticBytes;

// A warp that multiplies and normalises. kQuads: of a row that every block normalises by itself;
// kBlocks: of eight rows of x.
template <typename T, int32_t kQuads, int32_t kBlocks>
class Worker {
 public:
  __device__ __forceinline__ Worker(const Params& params,
                                    Block& block,
                                    uint32_t stages,
                                    uint2* normed,
                                    const float* added,
                                    int32_t warp)
      : params_(params),
        block_(block),
        ring_{block.barriers,
              block.rows_free,
              stages,
              matmul::InRegister(params.stage_bytes),
              matmul::InRegister(params.num_stages)},
        normed_(normed),
        added_(added),
        warp_(warp) {}

  __device__ __forceinline__ void Run() {
    if (makes_own_norms()) {
      ClearBehindRow();
    } else {
      PrefetchNormWeights();
    }
    WaitForPreviousKernel();
    const int32_t last = params_.num_ops - 1;
    // Nobody here waits in a product, and the last op's end is told by the kernel's.
    const bool leaves_early = block_.ops[last].kind != Kind::kNorm;
#pragma unroll 1
    for (int32_t i = 0; i <= last; ++i) {
      const Op& op = block_.ops[i];
      if (i == last && leaves_early) {
        if (makes_own_norms() && IsKeeper()) {
          StoreX();
        }
        LeaveByLast();
      }
      if (static_cast<int32_t>(blockIdx.x) >= op.num_blocks) {
        continue;
      }
      if (op.kind == Kind::kNorm) {
        Norm(op, i);
      } else {
        Product(i);
      }
      if (i < last) {
        Announce(i, op.kind == Kind::kNorm && makes_own_norms() && !IsKeeper());
        if (HasEnds(op)) {
          block_.ends_used.Arrive();
        }
      }
    }
    if (!leaves_early) {
      NamedBarrier(kWorkersBarrier, 32 * kWarps);
      LeaveByLast();
    }
  }

 private:
  static constexpr int32_t kCluster = ClusterOf(8 * kBlocks);

  __device__ __forceinline__ bool makes_own_norms() const {
    return kBlocks == 1 && params_.norm_dim > 0;
  }

  // What the last stage of a product reads behind the row meets weights of zero.
  __device__ __forceinline__ void ClearBehindRow() const {
    uint2* end = normed_ + params_.norm_dim / 4;
    for (auto i = static_cast<int32_t>(threadIdx.x); i < kMaxPanels * 64 / 4; i += 32 * kWarps) {
      end[i] = {};
    }
  }

  // Where every block has read x for the first norm.
  __device__ __forceinline__ void StoreX() const {
    for (int32_t i = 0; i < params_.num_ops; ++i) {
      const Op& op = block_.ops[i];
      if (op.kind == Kind::kNorm) {
        if (threadIdx.x == 0) {
          Await(params_.counters + i, op.num_blocks);
        }
        NamedBarrier(kWorkersBarrier, 32 * kWarps);
        auto* x = reinterpret_cast<float4*>(op.x);
        EachQuad<kQuads>(op.hidden_dim,
                         [&](int32_t share, int32_t k, int32_t at) { x[at] = own_[share][k]; });
        return;
      }
    }
  }

  __device__ __forceinline__ void PrefetchNormWeights() const {
    for (int32_t i = 0; i < params_.num_ops; ++i) {
      const Op& op = block_.ops[i];
      if (op.kind == Kind::kNorm && static_cast<int32_t>(blockIdx.x) < op.num_blocks) {
        for (auto line = static_cast<int32_t>(threadIdx.x); line < op.hidden_dim / 32;
             line += 32 * kWarps) {
          asm volatile("prefetch.global.L2 [%0];" ::"l"(op.weight + line * 32));
        }
      }
    }
  }

  // The parameters stay where they are: registers are short.
  __device__ __forceinline__ void Product(int32_t index) {
    if constexpr (kBlocks == 1) {
      if (block_.ops[index].reads_norm) {
        Product<true>(index);
        return;
      }
    }
    Product<false>(index);
  }

  template <bool kOneRow>
  __device__ __forceinline__ void Product(int32_t index) {
    switch (block_.ops[index].panels) {
      case 1:
        return Product<kOneRow, 1>(index);
      case 2:
        return Product<kOneRow, 2>(index);
      case 3:
        return Product<kOneRow, 3>(index);
      case 4:
        return Product<kOneRow, 4>(index);
      case 5:
        return Product<kOneRow, 5>(index);
      default:
        return Product<kOneRow, kMaxPanels>(index);
    }
  }

  // A narrow tile leaves warps without a unit: there several share a unit's rows of x.
  template <bool kOneRow, int32_t kPanels>
  __device__ __forceinline__ void Product(int32_t index) {
    const int32_t units = block_.ops[index].tile_columns / 16;
    if constexpr (kBlocks >= 4) {
      if (4 * units <= kSharingWarps) {
        return Product<kOneRow, kPanels, kBlocks / 4>(index);
      }
    }
    if constexpr (kBlocks >= 2) {
      if (2 * units <= kSharingWarps) {
        return Product<kOneRow, kPanels, kBlocks / 2>(index);
      }
    }
    return Product<kOneRow, kPanels, kBlocks>(index);
  }

  // kMine: of the blocks of x, a warp's.
  template <bool kOneRow, int32_t kPanels, int32_t kMine>
  __device__ __forceinline__ void Product(int32_t index) {
    const Op& op = block_.ops[index];
    const auto step = static_cast<int32_t>(gridDim.x);
    const int32_t num_slabs = CeilDiv(op.num_panels, kPanels);
    const int32_t units = op.tile_columns / 16;
    const int32_t active = units * (kBlocks / kMine);
    if (warp_ >= active) {  // and waits for the others where the block announces what it made
      ring_.at.Skip(CeilDiv(op.num_tiles - static_cast<int32_t>(blockIdx.x), step) * num_slabs,
                    ring_.num_stages);
      if (op.announces_first) {
        Announce(kMaxChainOps + index);
      }
      return;
    }
    // The first warp arrives for those that have no part in this op.
    const auto arrivals = static_cast<uint32_t>(warp_ == 0 ? kWarps + 1 - active : 1);
    const matmul::RowsPart part = {warp_ % units, warp_ / units * kMine};
    const int32_t num_tiles = op.num_tiles;
    for (auto tile = static_cast<int32_t>(blockIdx.x); tile < num_tiles; tile += step) {
      matmul::RowsSums<kMine> sums = {};
      matmul::RowsProduct<T, kPanels, kMine, kBlocks, kCluster, kOneRow>(
          ring_, op.tile_columns, part, arrivals, SharedAddress(normed_))
          .Add(num_slabs, sums);
      Store<kMine>(op, tile * op.tile_columns, part, sums);
      if (op.announces_first && tile == static_cast<int32_t>(blockIdx.x)) {
        Announce(kMaxChainOps + index);
      }
    }
  }

  template <int32_t kMine>
  __device__ __forceinline__ void Store(const Op& op,
                                        int32_t first,
                                        const matmul::RowsPart& part,
                                        const matmul::RowsSums<kMine>& sums) const {
    if (op.defers) {
      block_.ends_there.Wait(op.ends_parity);
      StoreAdded<T, kMine>(op, added_, params_.squares, params_.num_rows, part, sums);
      return;
    }
    const bool scales = op.scales != Scales::kNone;
    if (scales) {
      block_.ends_there.Wait(op.ends_parity);
    }
    matmul::StoreRows<T, kMine>(op.out,
                                op.kind == Kind::kGated,
                                params_.num_rows,
                                op.num_columns,
                                first,
                                part,
                                sums,
                                [&](int64_t row) { return scales ? block_.scales[row] : 1.0F; });
  }

  __device__ __forceinline__ void Norm(const Op& op, int32_t index) {
    if (makes_own_norms()) {
      const auto await = [&] {
        AwaitBefore(index);
        NamedBarrier(kWorkersBarrier, 32 * kWarps);
      };
      NormOwnRow<T, kQuads>(op, own_, normed_, !has_x_, block_.partial, await);
      has_x_ = true;
      return;
    }
    AwaitBefore(index);
    for (auto row = static_cast<int32_t>(blockIdx.x); row < params_.num_rows;
         row += static_cast<int32_t>(gridDim.x)) {
      NamedBarrier(kWorkersBarrier, 32 * kWarps);
      if (op.hidden_dim <= 4 * kMaxNormThreads) {
        NormRow<T, 1>(op, row, block_.partial, params_.squares);
      } else {
        NormRow<T, 2>(op, row, block_.partial, params_.squares);
      }
      if (op.scales == Scales::kMake) {
        MakeScale(op, row);
      }
    }
  }

  // Of a row that the block has just normalised.
  __device__ __forceinline__ void MakeScale(const Op& op, int32_t row) const {
    NamedBarrier(kWorkersBarrier, 32 * kWarps);
    if (warp_ == 0) {
      const float scale = SumScale(params_, op, row);
      if (threadIdx.x == 0) {
        op.made_scales[row] = scale;
      }
    }
  }

  __device__ __forceinline__ void AwaitBefore(int32_t index) const {
    if (threadIdx.x == 0 && index > 0) {
      Await(params_.counters + index - 1, block_.ops[index - 1].num_blocks);
      if (index > 1 && block_.ops[index - 2].kind == Kind::kNorm) {
        Await(params_.counters + index - 2, block_.ops[index - 2].num_blocks);
      }
    }
    __syncwarp();
  }

  // The block has written its results, and read what a norm adds up.
  __device__ __forceinline__ void Announce(int32_t counter, bool wrote_nothing = false) {
    if (!wrote_nothing) {
      FenceAsyncProxyGlobal();
    }
    __syncwarp();
    NamedBarrier(kWorkersBarrier, 32 * kWarps);
    if (threadIdx.x == kTeller) {
      chain::Announce(params_.counters + counter);
    }
  }

  __device__ __forceinline__ void LeaveByLast() const {
    if (threadIdx.x == kTeller) {
      Leave(params_);
    }
    __syncwarp();
  }

  const Params& params_;
  Block& block_;
  uint2* const normed_;
  const float* const added_;
  const int32_t warp_;
  matmul::RowsRing ring_;
  HeldRow<kQuads> own_ = {};
  bool has_x_ = false;  // in own_
};

template <typename T, int32_t kQuads, int32_t kBlocks>
__global__ void __launch_bounds__(kBoundThreads, 1)
    ChainKernel(const __grid_constant__ Params params) {
  constexpr int32_t kCluster = ClusterOf(8 * kBlocks);
  extern __shared__ uint8_t dynamic_shared[];
  __shared__ Block block;
  static_assert(sizeof(Block) <= kStaticBytes);
  const uint32_t stages = (SharedAddress(dynamic_shared) + 1023U) & ~1023U;
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t warp = thread / 32;
  const int32_t lane = thread % 32;
  AllowNextKernel();
  if (thread == 32 * kWarps) {
    block.barriers.Init(params.num_stages, kWarps, 2);
    block.ends_there.Init(1);
    block.ends_used.Init(32 * kWarps);
    if constexpr (kCluster > 1) {
      for (int32_t i = 0; i < params.num_stages; ++i) {
        block.rows_free[i].Init(kCluster * kWarps);
      }
    }
    FenceBarrierInit();
  }
  bool has_ends = false;
  if (thread < params.num_ops) {
    Op& op = block.ops[thread];
    op = params.ops[thread];
    has_ends = HasEnds(op) && static_cast<int32_t>(blockIdx.x) < op.num_blocks;
    if (params.ops[thread].kind != Kind::kNorm) {
      PrefetchTensorMap(params.x_maps[thread]);
      PrefetchTensorMap(params.weight_maps[thread]);
    }
  }
  static_assert(kMaxChainOps <= 32);
  const uint32_t before = __ballot_sync(0xffffffffU, has_ends) & ((1U << lane) - 1);
  if (thread < params.num_ops) {
    block.ops[thread].ends_parity = __popc(before) % 2;
  }
  __syncwarp();
  if constexpr (kCluster == 1) {
    __syncthreads();
  } else {
    matmul::ClusterBarrier();
  }
  uint8_t* behind_stages = dynamic_shared + (stages - SharedAddress(dynamic_shared)) +
                           params.num_stages * params.stage_bytes;
  uint8_t* added = behind_stages + NormBytes(params.norm_dim);
  if (warp < kWarps) {
    Worker<T, kQuads, kBlocks>(params,
                               block,
                               stages,
                               reinterpret_cast<uint2*>(behind_stages),
                               reinterpret_cast<const float*>(added),
                               warp)
        .Run();
  } else if (lane == 0 && warp == kWarps) {
    BringWeights(params, block, stages);
  } else if (lane == 0 && warp == kWarps + 1) {
    BringRows<kCluster>(params, block, stages);
  } else if (warp == kWarps + 2) {
    EndsBringer(params, block, SharedAddress(added)).Run();
  }
  // A block's memory must outlast what its neighbour sends it.
  if constexpr (kCluster > 1) {
    __syncwarp();
    matmul::ClusterBarrier();
  }
}

}  // namespace

namespace {

// The most of any launch: the attribute belongs to the kernel.
template <typename Kernel>
cudaError_t AllowSharedMemory(Kernel kernel) {
  return cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxDynamicBytes);
}

}  // namespace

cudaError_t FindNumPairs(int32_t num_sms, int32_t& num_pairs) {
  const auto kernel = ChainKernel<__nv_bfloat16, 1, kMaxChainRows / 8>;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {kMaxCluster, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(num_sms / kMaxCluster * kMaxCluster));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kMaxDynamicBytes;
  config.attrs = &attribute;
  config.numAttrs = 1;
  const cudaError_t error = AllowSharedMemory(kernel);
  return error != cudaSuccess ? error : cudaOccupancyMaxActiveClusters(&num_pairs, kernel, &config);
}

template <typename T>
cudaError_t LaunchKernel(const Launch& launch, cudaStream_t stream) {
  const int32_t stage_rows = launch.params.stage_rows;
  const auto kernel = stage_rows > 16  ? ChainKernel<T, 1, 4>
                      : stage_rows > 8 ? ChainKernel<T, 1, 2>
                      : launch.params.norm_dim <= 4 * kMaxNormThreads
                          ? ChainKernel<T, 1, 1>
                          : ChainKernel<T, kMaxQuads, 1>;
  if (const cudaError_t error = AllowSharedMemory(kernel); error != cudaSuccess) {
    return error;
  }
  return LaunchOverlappingClusters(kernel,
                                   ClusterOf(stage_rows),
                                   dim3(static_cast<unsigned>(launch.grid)),
                                   kThreads,
                                   launch.shared_bytes,
                                   stream,
                                   launch.params);
}

template cudaError_t LaunchKernel<__nv_bfloat16>(const Launch&, cudaStream_t);
template cudaError_t LaunchKernel<__half>(const Launch&, cudaStream_t);

}  // namespace ringserve::cuda::chain
