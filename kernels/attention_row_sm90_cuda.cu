// Attention of one row for sm_90a, with the rotation and the append before it: every item is spread
// over the blocks of a cluster, so that a sequence alone does not wait for the few multiprocessors
// that have an item. The bits are those of the other kernels (attention_rules_cuda.cuh): scores of
// different keys know nothing of each other, and neither do columns of the output.
//
// A warp takes a quarter of a key tile. The quarters' largest scores go to every block, which
// follows the row's reference values by itself; then the probabilities go there, and each block
// accumulates its own columns over all keys in their order.
#include "kernels/attention_row_load_cuda.cuh"
#include "kernels/attention_rules_cuda.cuh"

namespace ringserve::cuda {
namespace row {
namespace {

template <typename T, int32_t kHeadDim>
class RowBlock {
 public:
  using S = Shape<kHeadDim>;

  __device__ __forceinline__ RowBlock(const AttentionCudaParams& params,
                                      const AppendedRows& rows,
                                      const RowLimits& limits,
                                      uint8_t* shared)
      : at_(params, rows, limits, shared) {}

  __device__ __forceinline__ void Run() {
    const Input<T, kHeadDim> input(at_);
    input.FindBlocks();
    __syncthreads();
    if (at_.has_quarter) {
      input.LoadKeys();
    }
    input.LoadValues();
    CommitCopies();
    AllowNextKernel();  // whose weights come after these keys
    input.ClearQueries();
    WaitForPreviousKernel();
    input.Append();
    __syncwarp();
    WaitCopies<0>();
    __syncthreads();
    AwaitCluster();  // the others are there
    if (at_.has_quarter) {
      Scores();
      PublishMax();
    }
    ArriveAtCluster();
    AwaitCluster();
    if (at_.has_quarter) {
      PublishProbabilities();
    }
    if (at_.warp == kWarps - 1 && at_.lane < kDecodeRows) {
      FindRescales();
    }
    __syncwarp();
    ArriveAtCluster();
    AwaitCluster();
    if (at_.warp < S::kColumns / 8) {
      MakeOutput();
    }
  }

 private:
  __device__ __forceinline__ void Scores() {
#pragma unroll
    for (int32_t j = 0; j < S::kKeys / 8; ++j) {
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        scores_[j][i] = 0;
      }
    }
    const int32_t row = (at_.lane & 7) + ((at_.lane >> 3) & 1) * 8;
    const int32_t key = (at_.lane & 7) + (at_.lane >> 4) * 8;
    const uint32_t keys = at_.address + at_.Keys(at_.warp);
#pragma unroll
    for (int32_t k = 0; k < kHeadDim / 16; ++k) {
      uint32_t a[4];
      LoadMatrix4(a, at_.address + TileOffset<kDecodeRows>(row, 2 * k + (at_.lane >> 4)));
#pragma unroll
      for (int32_t j = 0; j < S::kKeys / 16; ++j) {
        uint32_t b[4];
        LoadMatrix4(b, keys + TileOffset<S::kKeys>(key + j * 16, k * 2 + ((at_.lane >> 3) & 1)));
        MatrixProduct<T>(scores_[2 * j], a, b[0], b[1]);
        MatrixProduct<T>(scores_[2 * j + 1], a, b[2], b[3]);
      }
    }
    const int32_t last = min(at_.item.row_position, at_.NewKey());
    const int32_t first = max(at_.item.row_position - at_.params.window + 1, at_.item.key_begin);
#pragma unroll
    for (int32_t j = 0; j < S::kKeys / 8; ++j) {
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        const int32_t at = at_.quarter * S::kKeys + j * 8 + at_.lane % 4 * 2 + (i & 1);
        if (at > last || at < first) {
          scores_[j][i] = kNegativeInfinity;
        }
      }
    }
  }

  __device__ __forceinline__ float* Max(int32_t quarter) const {
    return reinterpret_cast<float*>(at_.shared + at_.layout.max) + quarter * kDecodeRows;
  }

  // Of a quarter.
  __device__ __forceinline__ int32_t Sums() const {
    return 4 * at_.max_heads;
  }

  __device__ __forceinline__ float* Sum(int32_t quarter) const {
    return reinterpret_cast<float*>(at_.shared + at_.layout.sum) + quarter * Sums();
  }

  // To the same place of every block, from this one.
  __device__ __forceinline__ void Send(const void* from, int32_t block) const {
    StoreAt(block, SharedAddress(from), *static_cast<const uint4*>(from));
  }

  __device__ __forceinline__ void PublishMax() const {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      float largest = kNegativeInfinity;
#pragma unroll
      for (int32_t j = 0; j < S::kKeys / 8; ++j) {
        largest = fmaxf(largest, fmaxf(scores_[j][2 * half], scores_[j][2 * half + 1]));
      }
      largest = QuadMax(largest);
      if (at_.lane % 4 == 0) {
        Max(at_.quarter)[at_.lane / 4 + 8 * half] = largest;
      }
    }
    __syncwarp();
    Send(Max(at_.quarter) + at_.lane % 4 * 4, at_.lane / 4);
  }

  // A row's largest score of a tile.
  __device__ __forceinline__ float TileMax(int32_t tile, int32_t row) const {
    const float* max = Max(tile * kQuarters) + row;
    return fmaxf(fmaxf(max[0], max[kDecodeRows]),
                 fmaxf(max[2 * kDecodeRows], max[3 * kDecodeRows]));
  }

  __device__ __forceinline__ void PublishProbabilities() const {
    const int32_t tile = at_.quarter / kQuarters;
    const int32_t first_piece = at_.quarter % kQuarters * (S::kKeys / 8);
    uint8_t* const probabilities = at_.shared + at_.layout.scratch + tile * S::kProbabilityBytes;
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      if (8 * half >= at_.item.num_heads) {
        break;
      }
      const int32_t row = at_.lane / 4 + 8 * half;
      float reference = kNegativeInfinity;
#pragma unroll 4
      for (int32_t t = 0; t <= tile; ++t) {
        reference = NextReference(reference, TileMax(t, row), at_.params.scale_log2);
      }
      const float scaled = ScaledReference(reference, at_.params.scale_log2);
      float sum = 0;
#pragma unroll
      for (int32_t j = 0; j < S::kKeys / 8; ++j) {
        const float p0 = Probability(scores_[j][2 * half], at_.params.scale_log2, scaled);
        const float p1 = Probability(scores_[j][2 * half + 1], at_.params.scale_log2, scaled);
        sum = __fadd_rn(sum, p0);
        sum = __fadd_rn(sum, p1);
        *reinterpret_cast<uint32_t*>(probabilities + TileOffset<kDecodeRows>(row, first_piece + j) +
                                     at_.lane % 4 * 4) = Pack<T>(p0, p1);
      }
      if (row < at_.item.num_heads) {
        Sum(at_.quarter)[row * 4 + at_.lane % 4] = sum;
      }
    }
    __syncwarp();
    // The rows that there are: four pieces of probabilities each, then one of sums.
    for (int32_t piece = at_.lane; piece < 5 * at_.item.num_heads; piece += 32) {
      const int32_t row = piece / 4;
      const void* from =
          row < at_.item.num_heads
              ? static_cast<const void*>(probabilities +
                                         TileOffset<kDecodeRows>(row, first_piece + piece % 4))
              : Sum(at_.quarter) + (piece - 4 * at_.item.num_heads) * 4;
      const uint4 value = *static_cast<const uint4*>(from);
#pragma unroll
      for (int32_t i = 1; i < kBlocks; ++i) {
        StoreAt((at_.rank + i) % kBlocks, SharedAddress(from), value);
      }
    }
  }

  __device__ __forceinline__ float* Rescales(int32_t tile) const {
    return reinterpret_cast<float*>(at_.shared + at_.layout.rescale) + tile * kDecodeRows;
  }

  // Of the row that is the lane's number, for all tiles.
  __device__ __forceinline__ void FindRescales() const {
    float reference = kNegativeInfinity;
#pragma unroll 4
    for (int32_t tile = 0; tile < at_.item.num_tiles; ++tile) {
      const float next = NextReference(reference, TileMax(tile, at_.lane), at_.params.scale_log2);
      Rescales(tile)[at_.lane] = Rescale(reference, next, at_.params.scale_log2);
      reference = next;
    }
  }

  // Of a tile, what two rows are multiplied by before it and what it adds to their sums.
  struct TileFactors {
    float rescale[2];
    float sum[2];
  };

  __device__ __forceinline__ TileFactors Factors(int32_t tile) const {
    TileFactors factors;
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      const int32_t row = at_.lane / 4 + 8 * half;
      // A row without a head takes another's: nobody reads what it comes to.
      const float* sums =
          Sum(tile * kQuarters) + min(row, at_.item.num_heads - 1) * 4 + at_.lane % 4;
      factors.rescale[half] = Rescales(tile)[row];
      factors.sum[half] = __fadd_rn(__fadd_rn(sums[0], sums[Sums()]),
                                    __fadd_rn(sums[2 * Sums()], sums[3 * Sums()]));
    }
    return factors;
  }

  // Operands of two steps along the keys.
  struct Pair {
    uint32_t a[2][4];
    uint32_t b[4];
  };

  __device__ __forceinline__ void Load(int32_t pair, Pair& to) const {
    constexpr int32_t kPairs = S::kTile / 32;
    const int32_t row = (at_.lane & 7) + ((at_.lane >> 3) & 1) * 8;
    const uint32_t probabilities =
        at_.address + at_.layout.scratch + pair / kPairs * S::kProbabilityBytes;
    LoadMatrix4Transposed(
        to.b,
        at_.address + at_.layout.values + ValueOffset<kHeadDim>(pair * 32 + at_.lane, at_.warp));
#pragma unroll
    for (int32_t i = 0; i < 2; ++i) {
      const int32_t piece = pair % kPairs * 4 + 2 * i + (at_.lane >> 4);
      LoadMatrix4(to.a[i], probabilities + TileOffset<kDecodeRows>(row, piece));
    }
  }

  // Eight columns over all keys; what comes next is asked for one step ahead.
  __device__ __forceinline__ void MakeOutput() const {
    constexpr int32_t kPairs = S::kTile / 32;
    float out[4] = {};
    float sum[2] = {};
    TileFactors next = Factors(0);
    Pair pairs[2];
    Load(0, pairs[0]);
#pragma unroll 1
    for (int32_t tile = 0; tile < at_.item.num_tiles; ++tile) {
      const TileFactors factors = next;
      next = Factors(min(tile + 1, at_.item.num_tiles - 1));
#pragma unroll
      for (int32_t half = 0; half < 2; ++half) {
        sum[half] = __fmaf_rn(sum[half], factors.rescale[half], factors.sum[half]);
        out[2 * half] = __fmul_rn(out[2 * half], factors.rescale[half]);
        out[2 * half + 1] = __fmul_rn(out[2 * half + 1], factors.rescale[half]);
      }
#pragma unroll
      for (int32_t i = 0; i < kPairs; ++i) {
        const int32_t pair = tile * kPairs + i;
        Load(min(pair + 1, at_.item.num_tiles * kPairs - 1), pairs[(i + 1) % 2]);
        const Pair& now = pairs[i % 2];
        MatrixProduct<T>(out, now.a[0], now.b[0], now.b[1]);
        MatrixProduct<T>(out, now.a[1], now.b[2], now.b[3]);
      }
    }
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      const float factor = Normalizer(QuadSum(sum[half]));
      const int32_t head = at_.lane / 4 + 8 * half;
      if (head < at_.item.num_heads) {
        T* to = static_cast<T*>(at_.params.out) + at_.item.first_row * at_.params.out_stride +
                (at_.item.first_head + head) * kHeadDim + at_.rank * S::kColumns + at_.warp * 8 +
                at_.lane % 4 * 2;
        *reinterpret_cast<uint32_t*>(to) =
            Pack<T>(__fmul_rn(out[2 * half], factor), __fmul_rn(out[2 * half + 1], factor));
      }
    }
  }

  const Place<kHeadDim> at_;
  float scores_[S::kKeys / 8][4];
};

// Of 64 registers a thread: a multiprocessor has room for a block of this beside one of a chain.
template <typename T, int32_t kHeadDim>
__global__ void __cluster_dims__(kBlocks) __launch_bounds__(kThreads, 4)
    RowKernel(const __grid_constant__ AttentionCudaParams params,
              const __grid_constant__ AppendedRows rows,
              const __grid_constant__ RowLimits limits) {
  extern __shared__ __align__(1024) uint8_t shared[];
  ArriveAtCluster();
  RowBlock<T, kHeadDim>(params, rows, limits, shared).Run();
}

}  // namespace
}  // namespace row

int32_t RowSharedBytes(int32_t head_dim, const RowLimits& limits) {
  return head_dim == 64 ? row::Layout<64>(limits).bytes : row::Layout<128>(limits).bytes;
}

template <typename T, int32_t kHeadDim>
cudaError_t LaunchRowHopper(const AttentionCudaParams& params,
                            const AppendedRows& rows,
                            const RowLimits& limits,
                            cudaStream_t stream) {
  const auto kernel = row::RowKernel<T, kHeadDim>;
  // The most of any launch: the attribute belongs to the kernel.
  const cudaError_t error = cudaFuncSetAttribute(
      kernel,
      cudaFuncAttributeMaxDynamicSharedMemorySize,
      RowSharedBytes(kHeadDim, {.num_tiles = kMaxRowTiles, .num_heads = kDecodeRows}));
  if (error != cudaSuccess) {
    return error;
  }
  return LaunchOverlapping(kernel,
                           params.num_items * row::kBlocks,
                           row::kThreads,
                           RowSharedBytes(kHeadDim, limits),
                           stream,
                           params,
                           rows,
                           limits);
}

#define RINGSERVE_INSTANTIATE(T, D)           \
  template cudaError_t LaunchRowHopper<T, D>( \
      const AttentionCudaParams&, const AppendedRows&, const RowLimits&, cudaStream_t);
RINGSERVE_INSTANTIATE(__nv_bfloat16, 64)
RINGSERVE_INSTANTIATE(__nv_bfloat16, 128)
RINGSERVE_INSTANTIATE(__half, 64)
RINGSERVE_INSTANTIATE(__half, 128)
#undef RINGSERVE_INSTANTIATE

}  // namespace ringserve::cuda
