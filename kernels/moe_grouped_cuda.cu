// The products of a mixture of experts: one grid over all experts' rows. A block takes up to 64
// rows of one expert and 64 features, with four warps of 16 rows each; slabs of 64 columns of both
// come through a ring of stages by cp.async. Columns accumulate in steps of 16 in ascending order,
// as in every product of this backend.
#include "kernels/cuda_util.cuh"
#include "kernels/moe_params_cuda.cuh"

namespace ringserve::cuda::moe {
namespace {

constexpr int32_t kTileFeatures = 64;
constexpr int32_t kSlab = kPanelColumns;
constexpr int32_t kThreads = 128;
constexpr int32_t kStages = 4;
constexpr int32_t kSlabBytes = 64 * kPanelRowBytes;
constexpr int32_t kSharedBytes = kStages * 2 * kSlabBytes + 1024;
static_assert(kTileRows == 64);

// The rows of one tile: grouped rows [first, first + count) of one expert.
struct RowTile {
  int32_t expert;
  int32_t first;
  int32_t count;
};

// The expert whose tiles hold number `tile`; count 0 if there are not so many.
__device__ __forceinline__ RowTile FindTile(const GroupedParams& params, int32_t tile) {
  if (tile >= params.tile_offsets[params.num_experts]) {
    return {0, 0, 0};
  }
  int32_t low = 0;
  int32_t high = params.num_experts;  // tile_offsets[low] <= tile < tile_offsets[high]
  while (high - low > 1) {
    const int32_t middle = (low + high) / 2;
    if (params.tile_offsets[middle] <= tile) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const int32_t first = params.offsets[low] + (tile - params.tile_offsets[low]) * kTileRows;
  return {low, first, min(params.offsets[low + 1] - first, kTileRows)};
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    GroupedKernel(const __grid_constant__ GroupedParams params) {
  extern __shared__ uint8_t dynamic_shared[];
  __shared__ int32_t rows[kTileRows];
  const RowTile tile = FindTile(params, static_cast<int32_t>(blockIdx.y));
  if (tile.count == 0) {
    return;
  }
  const uint32_t stages = (SharedAddress(dynamic_shared) + 1023U) & ~1023U;
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t warp = thread / 32;
  const int32_t lane = thread % 32;
  const int32_t first_feature = static_cast<int32_t>(blockIdx.x) * kTileFeatures;
  const std::byte* weight = params.weight + tile.expert * params.expert_bytes;
  if (thread < tile.count) {
    const int32_t grouped = tile.first + thread;
    rows[thread] = params.choices == nullptr ? grouped : params.choices[grouped] / params.per_token;
  }
  __syncthreads();
  const int32_t num_slabs = CeilDiv(params.cols, kSlab);
  const auto load = [&](int32_t slab) {
    const uint32_t x_to = stages + slab % kStages * 2 * kSlabBytes;
    for (int32_t i = thread; slab < num_slabs && i < 64 * 8; i += kThreads) {
      const int32_t row = i / 8;
      const int32_t column = slab * kSlab + i % 8 * 8;
      const bool in_row = column < params.cols;
      const bool has_x = in_row && row < tile.count;
      const int64_t x_at = has_x ? int64_t{rows[row]} * params.cols + column : 0;
      CopyAsync16(x_to + PanelOffset(row, i % 8), params.x + 2 * x_at, has_x);
      const bool has_weight = in_row && first_feature + row < params.num_features;
      const int64_t weight_at =
          has_weight ? int64_t{first_feature + row} * params.cols + column : 0;
      CopyAsync16(x_to + kSlabBytes + PanelOffset(row, i % 8), weight + 2 * weight_at, has_weight);
    }
    CommitCopies();
  };
  for (int32_t slab = 0; slab < kStages - 1; ++slab) {
    load(slab);
  }
  float sums[kTileFeatures / 8][4] = {};
  for (int32_t slab = 0; slab < num_slabs; ++slab) {
    WaitCopies<kStages - 2>();
    __syncthreads();
    load(slab + kStages - 1);
    if (warp * 16 >= tile.count) {
      continue;
    }
    const uint32_t x = stages + slab % kStages * 2 * kSlabBytes;
#pragma unroll
    for (int32_t step = 0; step < kSlab / 16; ++step) {
      uint32_t a[4];
      LoadMatrix4(a, x + PanelOffset(warp * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
      for (int32_t pair = 0; pair < kTileFeatures / 16; ++pair) {
        uint32_t b[4];
        const int32_t feature = pair * 16 + lane / 16 * 8 + lane % 8;
        LoadMatrix4(b, x + kSlabBytes + PanelOffset(feature, step * 2 + lane / 8 % 2));
        MatrixProduct<T>(sums[2 * pair], a, b[0], b[1]);
        MatrixProduct<T>(sums[2 * pair + 1], a, b[2], b[3]);
      }
    }
  }
  const auto* bias =
      params.bias == nullptr
          ? nullptr
          : reinterpret_cast<const float*>(params.bias + tile.expert * params.expert_bytes);
#pragma unroll
  for (int32_t block = 0; block < kTileFeatures / 8; ++block) {
#pragma unroll
    for (int32_t i = 0; i < 4; ++i) {
      const int32_t row = warp * 16 + lane / 4 + i / 2 * 8;
      const int32_t feature = first_feature + block * 8 + lane % 4 * 2 + i % 2;
      if (row < tile.count && feature < params.num_features) {
        params.out[int64_t{tile.first + row} * params.num_features + feature] =
            bias == nullptr ? sums[block][i] : __fadd_rn(sums[block][i], bias[feature]);
      }
    }
  }
}

}  // namespace

cudaError_t LaunchGrouped(const GroupedParams& params,
                          DType dtype,
                          int32_t max_tiles,
                          cudaStream_t stream) {
  const auto kernel = dtype == DType::kBf16 ? GroupedKernel<__nv_bfloat16> : GroupedKernel<__half>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (error != cudaSuccess) {
    return error;
  }
  const dim3 grid(static_cast<unsigned>(CeilDiv(params.num_features, kTileFeatures)),
                  static_cast<unsigned>(max_tiles));
  kernel<<<grid, kThreads, kSharedBytes, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace ringserve::cuda::moe
