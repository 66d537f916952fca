// Decode attention for sm_80 and later: one block takes one item at a time, key and value tiles
// come through a ring of stages by cp.async. The general kernel also takes what attention_cuda.h
// calls general.
#include "kernels/attention_decode_cuda.cuh"
#include "kernels/attention_kernels_cuda.h"
#include "kernels/attention_load_cuda.cuh"

namespace ringserve::cuda {
namespace {

template <int32_t kHeadDim, int32_t kStages>
struct PortableDecodeShared {
  using Shape = DecodeShape<kHeadDim>;
  alignas(1024) uint8_t stages[kStages][Shape::kTileBytes];
  typename Shape::Exchange exchange;
  alignas(16) uint8_t queries[Shape::kQueryBytes];
};

template <typename T, int32_t kHeadDim, int32_t kStages, bool kGeneral>
__global__ void __launch_bounds__(kDecodeThreads)
    DecodeKernel(const __grid_constant__ AttentionCudaParams params) {
  using Shared = PortableDecodeShared<kHeadDim, kStages>;
  constexpr int32_t kTile = TileKeys(kHeadDim);
  extern __shared__ uint8_t dynamic_shared[];
  Shared& shared = *reinterpret_cast<Shared*>(
      dynamic_shared + ((1024 - (SharedAddress(dynamic_shared) & 1023)) & 1023));
  DecodeScores<T, kHeadDim> scores;
  DecodeOutput<T, kHeadDim, kGeneral> output;

  for (int32_t index = static_cast<int32_t>(blockIdx.x); index < params.num_items;
       index += static_cast<int32_t>(gridDim.x)) {
    const AttentionItem item = params.items[index];
    const int32_t sink_tiles = SinkTiles<kHeadDim, kGeneral>(item);
    const int32_t num_tiles = sink_tiles + item.num_tiles;
    // Loads alternate between keys and values: load 2i is the keys of tile i, counted from the
    // first of the sinks.
    const auto load = [&](int32_t number) {
      const int32_t tile = number / 2;
      const int64_t offset = number % 2 == 0 ? 0 : params.value_offset;
      const uint32_t to = SharedAddress(shared.stages[number % kStages]);
      if (kGeneral && tile < sink_tiles) {
        LoadSinkTile<kHeadDim, kDecodeThreads>(params, item, tile, offset, to);
      } else if (tile < num_tiles) {
        LoadTile<kHeadDim, kDecodeThreads, kGeneral>(params, item, tile - sink_tiles, offset, to);
      }
      CommitCopies();
    };
    constexpr int32_t kPieces = kHeadDim / 8;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < kDecodeRows * kPieces;
         i += kDecodeThreads) {
      const int32_t row = i / kPieces;
      const bool valid = row < item.num_rows * item.num_heads &&
                         i % kPieces * 8 < HeadDim<kHeadDim, kGeneral>(params);
      const T* from = QueryRow<T, kHeadDim, kGeneral>(params, item, valid ? row : 0) +
                      (valid ? i % kPieces * 8 : 0);
      CopyAsync16(SharedAddress(shared.queries) + i * 16, from, valid);
    }
    for (int32_t number = 0; number < kStages - 1; ++number) {
      load(number);
    }
    for (int32_t tile = 0; tile < num_tiles; ++tile) {
      WaitCopies<kStages - 2>();
      __syncthreads();
      load(2 * tile + kStages - 1);
      if (tile == 0) {
        scores.Begin(item, params.window, SharedAddress(shared.queries));
        output.Begin();
      }
      if constexpr (kGeneral) {
        if (tile < sink_tiles) {
          RotateSinks<T, kHeadDim, kDecodeThreads>(
              params, item, tile, shared.stages[2 * tile % kStages]);
          __syncthreads();
        } else if (tile == sink_tiles && tile > 0) {
          scores.BeginSplit();
          output.KeepSplit();
        }
      }
      scores.Scores(SharedAddress(shared.stages[2 * tile % kStages]));
      if constexpr (kGeneral) {
        if (params.cap_scale > 0) {
          scores.Cap(params.cap_scale);
        }
      }
      const int32_t ordinary = tile - sink_tiles;
      if constexpr (kGeneral) {
        if (params.position_bias != nullptr) {
          scores.AddBias(item, params, ordinary * kTile);
        }
      }
      if (kGeneral && tile < sink_tiles) {
        scores.MaskBehind(item.num_sinks - tile * kTile);
      } else if (ordinary < item.dense_begin || ordinary >= item.dense_end) {
        scores.Mask(ordinary * kTile);
      }
      scores.PublishMax(shared.exchange);
      WaitCopies<kStages - 2>();
      __syncthreads();
      load(2 * tile + kStages);
      scores.PublishProbabilities(shared.exchange, params.scale_log2);
      __syncthreads();
      output.Accumulate(shared.exchange, SharedAddress(shared.stages[(2 * tile + 1) % kStages]));
    }
    output.Finish(item, params, sink_tiles > 0 && item.num_tiles > 0);
    __syncthreads();
  }
}

// Folds the partial results of a row and head, one thread a column. The factors of all folds follow
// from prefix maxima, which do not depend on the order of their computation, so they are made while
// the values are on their way; the folds themselves run in order. What the plan says is read under
// the kernel before, and the kernel after may start at once.
template <typename T, int32_t kHeadDim, bool kGeneral>
__global__ void __launch_bounds__(kHeadDim)
    MergeKernel(const __grid_constant__ AttentionCudaParams params) {
  constexpr int32_t kWarps = kHeadDim / 32;
  constexpr int32_t kBatch = kHeadDim % 64 == 0 ? 64 : 32;  // values on their way at a time
  __shared__ int32_t partials[kHeadDim];
  __shared__ float2 factors[kHeadDim];
  __shared__ float sums[kHeadDim];
  __shared__ float warp_max[kWarps];
  AllowNextKernel();
  const AttentionMerge merge = params.merges[blockIdx.x];
  const auto packed_row = static_cast<int32_t>(blockIdx.y);
  if (packed_row >= merge.num_rows * merge.num_heads) {
    return;
  }
  const auto column = static_cast<int32_t>(threadIdx.x);
  float out = 0;
  float sum = 0;
  float reference = kNegativeInfinity;
  for (int32_t first = 0; first < merge.num_sources; first += kHeadDim) {
    const int32_t count = min(merge.num_sources - first, kHeadDim);
    const bool valid = column < count;
    const int32_t partial = params.sources[merge.first_source + first + (valid ? column : 0)] +
                            merge.PartialOffset(packed_row);
    partials[column] = partial;
    __syncthreads();
    if (first == 0) {
      WaitForPreviousKernel();
    }
    const float2 part = __ldcg(params.partial_sums + partial);
    float values[kBatch];
    const auto load = [&](int32_t s) {
#pragma unroll
      for (int32_t i = 0; i < kBatch; ++i) {
        const int64_t place = partials[s + i];
        values[i] = s + i < count ? __ldcg(params.partial_out + place * kHeadDim + column) : 0.0F;
      }
    };
    load(0);
    float largest = valid ? part.x : kNegativeInfinity;
    for (int32_t step = 1; step < 32; step *= 2) {
      const float other = __shfl_up_sync(0xffffffffU, largest, step);
      largest = column % 32 >= step ? fmaxf(largest, other) : largest;
    }
    if (column % 32 == 31) {
      warp_max[column / 32] = largest;
    }
    float before = __shfl_up_sync(0xffffffffU, largest, 1);
    before = fmaxf(reference, column % 32 == 0 ? kNegativeInfinity : before);
    __syncthreads();
    for (int32_t warp = 0; warp < kWarps; ++warp) {
      before = warp < column / 32 ? fmaxf(before, warp_max[warp]) : before;
      reference = fmaxf(reference, warp_max[warp]);
    }
    const Folding fold = Fold(before, part.x, params.scale_log2);
    factors[column] = valid ? make_float2(fold.before, fold.part) : make_float2(1, 0);
    sums[column] = part.y;
    __syncthreads();
    for (int32_t s = 0; s < count; s += kBatch) {
      if (s > 0) {
        load(s);
      }
#pragma unroll
      for (int32_t i = 0; i < kBatch; ++i) {
        const Folding at = {.reference = 0, .before = factors[s + i].x, .part = factors[s + i].y};
        out = Folded(at, out, values[i]);
        sum = Folded(at, sum, s + i < count ? sums[s + i] : 0.0F);
      }
    }
    __syncthreads();
  }
  const int32_t row = merge.first_row + packed_row / merge.num_heads;
  const int32_t head = merge.first_head + packed_row % merge.num_heads;
  const int32_t head_dim = HeadDim<kHeadDim, kGeneral>(params);
  if constexpr (kGeneral) {
    if (column >= head_dim) {
      return;
    }
    if (params.sink_logits != nullptr) {
      sum = __fadd_rn(sum, LearnedSink(params.sink_logits[head], reference, params.scale_log2));
    }
  }
  T* to = static_cast<T*>(params.out) + row * params.out_stride + head * head_dim + column;
  *to = T(__fmul_rn(out, Normalizer(sum)));
}

template <typename T, int32_t kHeadDim, int32_t kStages, bool kGeneral>
cudaError_t LaunchStages(const AttentionCudaParams& params,
                         const LaunchLimits& limits,
                         cudaStream_t stream) {
  constexpr int32_t kShared = sizeof(PortableDecodeShared<kHeadDim, kStages>) + 1024;
  const auto kernel = DecodeKernel<T, kHeadDim, kStages, kGeneral>;
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (error != cudaSuccess) {
    return error;
  }
  const int32_t per_sm = kShared > limits.shared_bytes / 2 ? 1 : 2;
  const int32_t grid = min(params.num_items, per_sm * limits.num_sms);
  kernel<<<grid, kDecodeThreads, kShared, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace

template <typename T, int32_t kHeadDim, bool kGeneral>
cudaError_t LaunchDecode(const AttentionCudaParams& params,
                         const LaunchLimits& limits,
                         cudaStream_t stream) {
  // Three stages of 32 KB fit where a block may have 163 KB (sm_80, sm_90), two where 99 KB.
  if (sizeof(PortableDecodeShared<kHeadDim, 3>) + 1024 <=
      static_cast<size_t>(limits.shared_bytes)) {
    return LaunchStages<T, kHeadDim, 3, kGeneral>(params, limits, stream);
  }
  return LaunchStages<T, kHeadDim, 2, kGeneral>(params, limits, stream);
}

template <typename T, int32_t kHeadDim, bool kGeneral>
cudaError_t LaunchMerge(const AttentionCudaParams& params,
                        const AttentionPlanView& plan,
                        bool overlap,
                        cudaStream_t stream) {
  const dim3 grid(plan.num_merges, plan.merge_rows);
  const auto kernel = MergeKernel<T, kHeadDim, kGeneral>;
  if (overlap) {
    return LaunchOverlapping(kernel, grid, kHeadDim, 0, stream, params);
  }
  kernel<<<grid, kHeadDim, 0, stream>>>(params);
  return cudaGetLastError();
}

#define RINGSERVE_INSTANTIATE(T, D, G)                                \
  template cudaError_t LaunchDecode<T, D, G>(                         \
      const AttentionCudaParams&, const LaunchLimits&, cudaStream_t); \
  template cudaError_t LaunchMerge<T, D, G>(                          \
      const AttentionCudaParams&, const AttentionPlanView&, bool, cudaStream_t);
#define RINGSERVE_INSTANTIATE_TYPE(T)  \
  RINGSERVE_INSTANTIATE(T, 64, false)  \
  RINGSERVE_INSTANTIATE(T, 96, false)  \
  RINGSERVE_INSTANTIATE(T, 128, false) \
  RINGSERVE_INSTANTIATE(T, 256, false) \
  RINGSERVE_INSTANTIATE(T, 64, true)   \
  RINGSERVE_INSTANTIATE(T, 128, true)  \
  RINGSERVE_INSTANTIATE(T, 256, true)
RINGSERVE_INSTANTIATE_TYPE(__nv_bfloat16)
RINGSERVE_INSTANTIATE_TYPE(__half)
#undef RINGSERVE_INSTANTIATE_TYPE
#undef RINGSERVE_INSTANTIATE

}  // namespace ringserve::cuda
