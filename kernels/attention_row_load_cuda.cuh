// Attention of one row (attention_row_sm90_cuda.cu): keys and values from the pool, and what the
// kernel before made of the row.
#pragma once

#include "kernels/attention_append_cuda.cuh"
#include "kernels/attention_row_cuda.cuh"

namespace ringserve::cuda::row {

// Appends the key, and the last warp the value, beside the others, which rotate queries.
inline constexpr int32_t kKeyWarp = kWarps - 2;

template <typename T, int32_t kHeadDim>
class Input {
 public:
  using S = Shape<kHeadDim>;

  __device__ __forceinline__ explicit Input(const Place<kHeadDim>& at) : at_(at) {}

  __device__ __forceinline__ void FindBlocks() const {
    const int32_t first = FirstBlock();
    const int32_t last = (at_.NewKey() + at_.item.base_in_block) >> at_.params.block_shift;
    for (int32_t i = first + static_cast<int32_t>(threadIdx.x); i <= last; i += kThreads) {
      Blocks()[i - first] = __ldg(at_.params.blocks + at_.item.first_block + i);
    }
  }

  // Keys of the warp's quarter; rows without one keep what lies there, which is masked.
  __device__ __forceinline__ void LoadKeys() const {
    constexpr int32_t kPieces = kHeadDim / 8;
    const auto mine = reinterpret_cast<uint64_t>(Stored(at_.quarter * S::kKeys + at_.lane, 0));
#pragma unroll
    for (int32_t i = 0; i < kPieces; ++i) {
      const int32_t key = (i * 32 + at_.lane) / kPieces;
      const int32_t piece = (i * 32 + at_.lane) % kPieces;
      const uint64_t from = __shfl_sync(0xffffffffU, mine, key);
      if (from != 0) {
        CopyAsync16(at_.address + at_.Keys(at_.warp) + TileOffset<S::kKeys>(key, piece),
                    reinterpret_cast<const void*>(from + piece * 16),
                    true);
      }
    }
  }

  // The block's columns of all values; zeros where there is none, for they meet probabilities of 0.
  __device__ __forceinline__ void LoadValues() const {
    constexpr int32_t kPieces = S::kValueRowBytes / 16;
#pragma unroll 4
    for (auto i = static_cast<int32_t>(threadIdx.x); i < at_.item.num_tiles * S::kTile * kPieces;
         i += kThreads) {
      const int32_t key = i / kPieces;
      const int32_t piece = i % kPieces;
      if (key != at_.NewKey()) {
        const std::byte* from = Stored(key, at_.params.value_offset);
        const int32_t offset = at_.rank * S::kValueRowBytes + piece * 16;
        CopyAsync16(at_.address + at_.layout.values + ValueOffset<kHeadDim>(key, piece),
                    from == nullptr ? at_.params.pool : from + offset,
                    from != nullptr);
      }
    }
  }

  __device__ __forceinline__ void ClearQueries() const {
    constexpr int32_t kPieces = kHeadDim / 8;
    for (int32_t i = at_.item.num_heads * kPieces + static_cast<int32_t>(threadIdx.x);
         i < kDecodeRows * kPieces;
         i += kThreads) {
      *reinterpret_cast<uint4*>(at_.shared + TileOffset<kDecodeRows>(i / kPieces, i % kPieces)) =
          make_uint4(0, 0, 0, 0);
    }
  }

  // What the kernel before made of the row: queries, key and value.
  __device__ __forceinline__ void Append() const {
    constexpr int32_t kHalf = kHeadDim / 2;
    constexpr int32_t kUnits = kHalf / 2;
    const AppendedRow<kHeadDim> row(at_.rows, 0);
    if (at_.warp < kKeyWarp) {
      for (auto unit = static_cast<int32_t>(threadIdx.x); unit < at_.item.num_heads * kUnits;
           unit += 32 * kKeyWarp) {
        const int32_t head = unit / kUnits;
        const int32_t i = unit % kUnits * 2;
        const RotatedPairs<T> pairs = Rotated(row.query(at_.item.first_head + head), row, i);
        StorePairs(TileOffset<kDecodeRows>(head, i / 8), i, pairs.low);
        StorePairs(TileOffset<kDecodeRows>(head, (kHalf + i) / 8), i, pairs.high);
      }
      return;
    }
    std::byte* to = KeyInPool<kHeadDim>(at_.params, at_.item.kv_head, row.slot());
    if (at_.warp == kKeyWarp) {
      const int32_t quarter = at_.NewKey() / S::kKeys;
      const int32_t i = at_.lane * 2;
      if (quarter % kBlocks != at_.rank || i >= kHalf) {
        return;
      }
      const RotatedPairs<T> pairs = Rotated(row.key(at_.item.kv_head), row, i);
      const uint32_t keys = at_.Keys(quarter / kBlocks);
      const int32_t key = at_.NewKey() % S::kKeys;
      StorePairs(keys + TileOffset<S::kKeys>(key, i / 8), i, pairs.low);
      StorePairs(keys + TileOffset<S::kKeys>(key, (kHalf + i) / 8), i, pairs.high);
      *reinterpret_cast<uint32_t*>(to + i * 2) = pairs.low;
      *reinterpret_cast<uint32_t*>(to + (kHalf + i) * 2) = pairs.high;
      return;
    }
    const int32_t i = at_.lane * 2;
    if (i < S::kColumns) {
      const int32_t column = at_.rank * S::kColumns + i;
      const float2 value =
          __ldcg(reinterpret_cast<const float2*>(row.value(at_.item.kv_head) + column));
      const uint32_t pair = Pack<T>(value.x, value.y);
      StorePairs(at_.layout.values + ValueOffset<kHeadDim>(at_.NewKey(), i / 8), i, pair);
      *reinterpret_cast<uint32_t*>(to + at_.params.value_offset + column * 2) = pair;
    }
  }

 private:
  __device__ __forceinline__ static RotatedPairs<T> Rotated(const float* head,
                                                            const AppendedRow<kHeadDim>& row,
                                                            int32_t i) {
    return {__ldcg(reinterpret_cast<const float2*>(head + i)),
            __ldcg(reinterpret_cast<const float2*>(head + kHeadDim / 2 + i)),
            __ldcg(reinterpret_cast<const float4*>(row.angles()) + i / 2)};
  }

  __device__ __forceinline__ int32_t FirstBlock() const {
    return (at_.item.key_begin + at_.item.base_in_block) >> at_.params.block_shift;
  }

  __device__ __forceinline__ int32_t* Blocks() const {
    return reinterpret_cast<int32_t*>(at_.shared + at_.layout.blocks);
  }

  // The row of a key that was there before, or of its value; null if there is none.
  __device__ __forceinline__ const std::byte* Stored(int32_t key, int64_t offset) const {
    if (key < at_.item.key_begin || key >= at_.NewKey()) {
      return nullptr;
    }
    const int32_t place = key + at_.item.base_in_block;
    const int32_t block = Blocks()[(place >> at_.params.block_shift) - FirstBlock()];
    return at_.params.pool + block * at_.params.block_bytes + at_.params.layer_offset +
           at_.item.kv_head * at_.params.plane_bytes + offset +
           (place & ((1 << at_.params.block_shift) - 1)) * (kHeadDim * 2);
  }

  // Columns i and i + 1 of the 16-byte piece at `offset`.
  __device__ __forceinline__ void StorePairs(uint32_t offset, int32_t i, uint32_t pair) const {
    *reinterpret_cast<uint32_t*>(at_.shared + offset + i % 8 * 2) = pair;
  }

  const Place<kHeadDim>& at_;
};

}  // namespace ringserve::cuda::row
