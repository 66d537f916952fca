// The ends of a chain's products beside deferred norms (rmsnorm.h). The product before such a norm
// adds its sums to x, weights that and sums its squares, each warp for its 16 columns: nobody waits
// for a row to be whole. The product after it begins, and multiplies by the rows' scales when it
// ends.
//
// Llama-3-8B's shape on an H200, tokens/s with norms between the products | so, at 1, 2, 8 and 32 x
// 1k: 256.3 | 258.5, 482 | 496, 1876 | 1931, 5850 | 6040. Where every block summed the scales of
// all rows, of 1 KiB each, it ran 5500 at 32 x 1k.
#pragma once

#include "kernels/chain_roles_cuda.cuh"

namespace ringserve::cuda::chain {

// The scale of a row whose sums of squares are there, by a warp.
__device__ __forceinline__ float SumScale(const Params& params, const Op& op, int32_t row) {
  const auto load = [&](int32_t /*row*/, int32_t i) {
    return __ldcg(reinterpret_cast<const float4*>(params.squares + row * kSquaresStride) + i);
  };
  float sum[1];
  SumSquares(op.hidden_dim, load, sum);
  return NormScale(sum[0], op.hidden_dim, op.eps);
}

// One warp, which brings what the ends of the block's products need: rows' scales, or what is added
// to.
class EndsBringer {
 public:
  __device__ __forceinline__ EndsBringer(const Params& params, Block& block, uint32_t added)
      : params_(params),
        block_(block),
        added_(added),
        lane_(static_cast<int32_t>(threadIdx.x) % 32) {}

  __device__ __forceinline__ void Run() {
    WaitForPreviousKernel();
#pragma unroll 1
    for (int32_t i = 0; i < params_.num_ops; ++i) {
      const Op& op = block_.ops[i];
      if (!HasEnds(op)) {
        continue;
      }
      if (i > 0) {
        AwaitByOne(i - 1, block_.ops[i - 1].num_blocks);
      }
      if (op.scales == Scales::kSum) {
        SumScales(op, i);
      }
      if (static_cast<int32_t>(blockIdx.x) >= op.num_blocks) {
        continue;
      }
      // What was brought before; of a barrier that was never used, it returns at once.
      block_.ends_used.Wait(op.ends_parity ^ 1);
      if (Adds(op)) {
        BringAdded(op);
      } else {
        BringScales(op, i);
      }
    }
    if (lane_ == 0) {
      Leave(params_);
    }
  }

 private:
  __device__ __forceinline__ void AwaitByOne(int32_t counter, int32_t target) const {
    if (lane_ == 0) {
      Await(params_.counters + counter, target);
    }
    __syncwarp();
  }

  // Of the block's tile, a copy a row.
  __device__ __forceinline__ void BringAdded(const Op& op) const {
    const int32_t first = static_cast<int32_t>(blockIdx.x) * op.tile_columns;
    const int32_t columns = min(op.tile_columns, op.num_columns - first);
    if (columns <= 0) {  // a tile that makes a cluster whole
      if (lane_ == 0) {
        block_.ends_there.Arrive();
      }
      return;
    }
    const auto bytes = static_cast<uint32_t>(columns) * 4;
    if (lane_ == 0) {
      block_.ends_there.ArriveExpecting(static_cast<uint32_t>(params_.num_rows + 1) * bytes);
      LoadBulk(block_.ends_there,
               added_ + static_cast<uint32_t>(params_.num_rows * op.tile_columns) * 4,
               op.weight + first,
               bytes);
    }
    __syncwarp();
    FenceAsyncProxyGlobal();
    if (lane_ < params_.num_rows) {
      LoadBulk(block_.ends_there,
               added_ + static_cast<uint32_t>(lane_ * op.tile_columns) * 4,
               op.x + int64_t{lane_} * op.num_columns + first,
               bytes);
    }
  }

  // Each row's are summed in one block, for all.
  __device__ __forceinline__ void SumScales(const Op& op, int32_t index) const {
    for (auto row = static_cast<int32_t>(blockIdx.x); row < params_.num_rows;
         row += static_cast<int32_t>(gridDim.x)) {
      const float scale = SumScale(params_, op, row);
      if (lane_ == 0) {
        op.made_scales[row] = scale;
        Announce(params_.counters + 2 * kMaxChainOps + index);
      }
    }
  }

  __device__ __forceinline__ void BringScales(const Op& op, int32_t index) const {
    if (op.scales == Scales::kSum) {
      AwaitByOne(2 * kMaxChainOps + index, params_.num_rows);
    }
    if (lane_ == 0) {
      FenceAsyncProxyGlobal();
      const auto bytes = static_cast<uint32_t>(RoundUp(params_.num_rows, 4)) * 4;
      block_.ends_there.ArriveExpecting(bytes);
      LoadBulk(block_.ends_there, SharedAddress(block_.scales), op.row_scales, bytes);
    }
  }

  const Params& params_;
  Block& block_;
  const uint32_t added_;
  const int32_t lane_;
};

// The sums of a product, added to x, and the deferred norm of that. `added`: the x of the tile, a
// row after the other, then the norm's weights. num_columns is a multiple of 16: a unit is there or
// not.
template <typename T, int32_t kBlocks>
__device__ __forceinline__ void StoreAdded(const Op& op,
                                           const float* added,
                                           float* squares,
                                           int32_t num_rows,
                                           const matmul::RowsPart& part,
                                           const matmul::RowsSums<kBlocks>& sums) {
  const auto lane = static_cast<int32_t>(threadIdx.x) % 32;
  const int32_t first = static_cast<int32_t>(blockIdx.x) * op.tile_columns;
  const int32_t column = part.unit * 16 + lane / 4;  // of the tile
  if (first + column >= op.num_columns) {
    return;
  }
  const float* weight = added + num_rows * op.tile_columns + column;
#pragma unroll
  for (int32_t block = 0; block < kBlocks; ++block) {
#pragma unroll
    for (int32_t i = 0; i < 2; ++i) {
      const int32_t row = (part.block + block) * 8 + lane % 4 * 2 + i;
      const bool is_there = row < num_rows;
      const float* x = added + row * op.tile_columns + column;
      // As StoreRows writes them and a norm adds them.
      const float low = (is_there ? x[0] : 0.0F) + (sums[block][i] + 0.0F);
      const float high = (is_there ? x[8] : 0.0F) + (sums[block][2 + i] + 0.0F);
      float square = SquareOfTwo(low, high);
#pragma unroll
      for (int32_t distance = 4; distance < 32; distance *= 2) {
        square += __shfl_xor_sync(0xffffffffU, square, distance);
      }
      // Neighbours exchange, so that each writes two columns at once: even ones of the first eight,
      // odd ones of those behind.
      const bool is_odd = lane / 4 % 2 != 0;
      const float own[2] = {low * weight[0], high * weight[8]};
      const float other = __shfl_xor_sync(0xffffffffU, own[is_odd ? 0 : 1], 4);
      if (is_there) {
        const int64_t at = int64_t{row} * op.num_columns + first + column;
        *reinterpret_cast<uint32_t*>(static_cast<T*>(op.out) + at + (is_odd ? 7 : 0)) =
            is_odd ? Pack<T>(other, own[1]) : Pack<T>(own[0], other);
        op.x[at] = low;
        op.x[at + 8] = high;
        if (lane < 4) {
          squares[row * kSquaresStride + (first + column) / kSquaresColumns] = square;
        }
      }
    }
  }
}

}  // namespace ringserve::cuda::chain
