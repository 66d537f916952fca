// A chain of ops with few rows (chain_cuda.h): a persistent block on every SM.
#include "kernels/chain_roles_cuda.cuh"
#include "kernels/launch_cuda.h"

namespace ringserve::cuda::chain {
namespace {

constexpr int32_t kThreads = 32 * (kWarps + 2);

constexpr int32_t kShares = kMaxNormThreads / (32 * kWarps);

// Loads of all shares before the first store, which might change what they read.
template <int32_t kQuads, typename F>
__device__ __forceinline__ void AddResidual(float4* x,
                                            const float4* residual,
                                            const F& quad,
                                            float4 (&values)[kShares][kQuads]) {
  float4 added[kShares][kQuads];
#pragma unroll
  for (int32_t share = 0; share < kShares; ++share) {
#pragma unroll
    for (int32_t i = 0; i < kQuads; ++i) {
      added[share][i] = quad(share, i) >= 0 ? __ldcg(residual + quad(share, i)) : float4{};
    }
  }
#pragma unroll
  for (int32_t share = 0; share < kShares; ++share) {
#pragma unroll
    for (int32_t i = 0; i < kQuads; ++i) {
      values[share][i] = Plus(values[share][i], added[share][i]);
      if (quad(share, i) >= 0) {
        x[quad(share, i)] = values[share][i];
      }
    }
  }
}

// A row of a norm by all the warps that multiply; rmsnorm_cuda.cuh says what the threads of a norm
// hold: here each plays kShares of them.
template <typename T, int32_t kQuads>
__device__ __forceinline__ void NormRow(const Op& op, int32_t row, float* partial) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t lane = thread % 32;
  const int32_t quads = op.hidden_dim / 4;
  const int32_t threads = NormThreads(op.hidden_dim, kQuads);
  const int64_t offset = int64_t{row} * quads;
  auto* x = reinterpret_cast<float4*>(op.x) + offset;
  float4 values[kShares][kQuads];
  // quad(share, i): of the row; -1 if there is none.
  const auto quad = [=](int32_t share, int32_t i) {
    const int32_t played = thread + share * 32 * kWarps;
    const int32_t at = played + i * threads;
    return played < threads && at < quads ? at : -1;
  };
#pragma unroll
  for (int32_t share = 0; share < kShares; ++share) {
#pragma unroll
    for (int32_t i = 0; i < kQuads; ++i) {
      values[share][i] = quad(share, i) >= 0 ? __ldcg(x + quad(share, i)) : float4{};
    }
  }
  if (op.residual != nullptr) {
    AddResidual(x, reinterpret_cast<const float4*>(op.residual) + offset, quad, values);
  }
#pragma unroll
  for (int32_t share = 0; share < kShares; ++share) {
    float sum = 0;
#pragma unroll
    for (int32_t i = 0; i < kQuads; ++i) {
      sum = AddSquares(values[share][i], sum);
    }
    sum = SumOfWarp(sum);
    if (lane == 0) {
      partial[thread / 32 + share * kWarps] = sum;
    }
  }
  NamedBarrier(kWorkersBarrier, 32 * kWarps);
  const float sum = SumOfWarp(lane < threads / 32 ? partial[lane] : 0.0F);
  const float scale = NormScale(sum, op.hidden_dim, op.eps);
  const auto* weight = reinterpret_cast<const float4*>(op.weight);
  auto* out = static_cast<uint2*>(op.out) + offset;
#pragma unroll
  for (int32_t share = 0; share < kShares; ++share) {
#pragma unroll
    for (int32_t i = 0; i < kQuads; ++i) {
      if (const int32_t at = quad(share, i); at >= 0) {
        out[at] = Normed<T>(values[share][i], scale, __ldg(weight + at));
      }
    }
  }
}

// A warp that multiplies and normalises.
template <typename T>
class Worker {
 public:
  __device__ __forceinline__
  Worker(const Params& params, Barriers& barriers, uint32_t stages, float* partial, int32_t warp)
      : params_(params), barriers_(barriers), stages_(stages), partial_(partial), warp_(warp) {}

  __device__ __forceinline__ void Run() {
    PrefetchNormWeights();
    WaitForPreviousKernel();
#pragma unroll 1
    for (int32_t i = 0; i < params_.num_ops; ++i) {
      const Op op = params_.ops[i];
      if (static_cast<int32_t>(blockIdx.x) >= op.num_blocks) {
        continue;
      }
      if (op.kind == Kind::kNorm) {
        Norm(op, i);
      } else {
        Product(op, i);
      }
      Announce(i);
    }
  }

 private:
  __device__ __forceinline__ void PrefetchNormWeights() const {
    for (int32_t i = 0; i < params_.num_ops; ++i) {
      const Op& op = params_.ops[i];
      if (op.kind == Kind::kNorm && static_cast<int32_t>(blockIdx.x) < op.num_blocks) {
        for (auto line = static_cast<int32_t>(threadIdx.x); line < op.hidden_dim / 32;
             line += 32 * kWarps) {
          asm volatile("prefetch.global.L2 [%0];" ::"l"(op.weight + line * 32));
        }
      }
    }
  }

  __device__ __forceinline__ void Product(const Op& op, int32_t index) {
    switch (op.panels) {
      case 1:
        return Product<1>(op, index);
      case 2:
        return Product<2>(op, index);
      case 3:
        return Product<3>(op, index);
      case 4:
        return Product<4>(op, index);
      case 5:
        return Product<5>(op, index);
      default:
        return Product<kMaxPanels>(op, index);
    }
  }

  template <int32_t kPanels>
  __device__ __forceinline__ void Product(const Op& op, int32_t index) {
    const int32_t num_stages = params_.num_stages;
    const int32_t stage_bytes = params_.stage_bytes;
    const auto step = static_cast<int32_t>(gridDim.x);
    const int32_t active = op.tile_columns / 16;
    if (warp_ >= active) {  // and waits for the others where the block announces what it made
      place_.Skip(CeilDiv(op.num_tiles - static_cast<int32_t>(blockIdx.x), step) *
                      CeilDiv(op.num_panels, kPanels),
                  num_stages);
      if (op.announces_first) {
        Announce(kMaxChainOps + index);
      }
      return;
    }
    // The first warp arrives for those that have no part in this op.
    const auto arrivals = static_cast<uint32_t>(warp_ == 0 ? kWarps + 1 - active : 1);
    StagePlace place = place_;
    for (auto tile = static_cast<int32_t>(blockIdx.x); tile < op.num_tiles; tile += step) {
      matmul::RowsSums<1> sums = {};
#pragma unroll 1
      for (int32_t panel = 0; panel < op.num_panels; panel += kPanels) {
        barriers_.full[place.stage].Wait(place.parity);
        matmul::MultiplyStage<T, kPanels, 1>(
            stages_ + static_cast<uint32_t>(place.stage * stage_bytes),
            op.tile_columns,
            warp_,
            sums);
        __syncwarp();
        if (threadIdx.x % 32 == 0) {
          barriers_.empty[place.stage].Arrive(arrivals);
        }
        place.Advance(num_stages);
      }
      matmul::StoreRows<T, 1>(op.out,
                              op.kind == Kind::kGated,
                              params_.num_rows,
                              op.num_columns,
                              tile * op.tile_columns,
                              warp_,
                              sums);
      if (op.announces_first && tile == static_cast<int32_t>(blockIdx.x)) {
        Announce(kMaxChainOps + index);
      }
    }
    place_ = place;
  }

  __device__ __forceinline__ void Norm(const Op& op, int32_t index) {
    if (threadIdx.x == 0 && index > 0) {
      Await(params_.counters + index - 1, params_.ops[index - 1].num_blocks);
    }
    __syncwarp();
    for (auto row = static_cast<int32_t>(blockIdx.x); row < params_.num_rows;
         row += static_cast<int32_t>(gridDim.x)) {
      NamedBarrier(kWorkersBarrier, 32 * kWarps);
      if (op.hidden_dim <= 4 * kMaxNormThreads) {
        NormRow<T, 1>(op, row, partial_);
      } else {
        NormRow<T, 2>(op, row, partial_);
      }
    }
  }

  // The block has written its results.
  __device__ __forceinline__ void Announce(int32_t counter) {
    FenceAsyncProxyGlobal();
    __syncwarp();
    NamedBarrier(kWorkersBarrier, 32 * kWarps);
    if (threadIdx.x == 0) {
      chain::Announce(params_.counters + counter);
    }
  }

  const Params& params_;
  Barriers& barriers_;
  const uint32_t stages_;
  float* const partial_;
  const int32_t warp_;
  StagePlace place_;
};

template <typename T>
__global__ void __launch_bounds__(kThreads, 1) ChainKernel(const __grid_constant__ Params params) {
  extern __shared__ uint8_t dynamic_shared[];
  __shared__ Barriers barriers;
  __shared__ float partial[kMaxNormThreads / 32];
  const uint32_t stages = (SharedAddress(dynamic_shared) + 1023U) & ~1023U;
  const auto warp = static_cast<int32_t>(threadIdx.x) / 32;
  const auto lane = static_cast<int32_t>(threadIdx.x) % 32;
  AllowNextKernel();
  if (threadIdx.x == 32 * kWarps) {
    barriers.Init(params.num_stages, kWarps);
  }
  if (static_cast<int32_t>(threadIdx.x) < params.num_ops &&
      params.ops[threadIdx.x].kind != Kind::kNorm) {
    PrefetchTensorMap(params.x_maps[threadIdx.x]);
    PrefetchTensorMap(params.weight_maps[threadIdx.x]);
  }
  __syncwarp();
  __syncthreads();
  if (warp < kWarps) {
    Worker<T>(params, barriers, stages, partial, warp).Run();
  } else if (lane == 0 && warp == kWarps) {
    BringWeights(params, barriers, stages);
  } else if (lane == 0) {
    BringRows(params, barriers, stages);
  }
  __syncwarp();
  __syncthreads();
  // The last block to finish leaves the counters as it found them.
  if (threadIdx.x == 0 &&
      atomicAdd(params.counters + kNumCounters - 1, 1) == static_cast<int32_t>(gridDim.x) - 1) {
    for (int32_t i = 0; i < kNumCounters; ++i) {
      params.counters[i] = 0;
    }
  }
}

}  // namespace

template <typename T>
cudaError_t LaunchKernel(const Launch& launch, cudaStream_t stream) {
  const auto kernel = ChainKernel<T>;
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, launch.shared_bytes);
  if (error != cudaSuccess) {
    return error;
  }
  return LaunchOverlapping(kernel,
                           dim3(static_cast<unsigned>(launch.grid)),
                           kThreads,
                           launch.shared_bytes,
                           stream,
                           launch.params);
}

template cudaError_t LaunchKernel<__nv_bfloat16>(const Launch&, cudaStream_t);
template cudaError_t LaunchKernel<__half>(const Launch&, cudaStream_t);

}  // namespace ringserve::cuda::chain
