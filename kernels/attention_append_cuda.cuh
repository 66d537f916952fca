// Attention kernels that do what LaunchRopeAppend would have done before them, for rows that are
// each alone in their sequence: queries are rotated on their way in, and a row's own key and value
// go into the tile that ends with them and to the pool.
#pragma once

#include <cstdint>

#include "kernels/attention_cuda_params.cuh"
#include "kernels/attention_kernels_cuda.h"
#include "kernels/rope_cuda.cuh"

namespace ringserve::cuda {

// What the kernel before made of a row, and where its key goes.
template <int32_t kHeadDim>
class AppendedRow {
 public:
  __device__ __forceinline__ AppendedRow(const AppendedRows& rows, int32_t row)
      : rows_(rows),
        row_(row),
        qkv_(rows.qkv +
             static_cast<int64_t>(row) * (rows.num_heads + 2 * rows.num_kv_heads) * kHeadDim) {}

  __device__ __forceinline__ const float* query(int32_t head) const {
    return qkv_ + head * kHeadDim;
  }

  __device__ __forceinline__ const float* key(int32_t kv_head) const {
    return qkv_ + (rows_.num_heads + kv_head) * kHeadDim;
  }

  __device__ __forceinline__ const float* value(int32_t kv_head) const {
    return qkv_ + (rows_.num_heads + rows_.num_kv_heads + kv_head) * kHeadDim;
  }

  __device__ __forceinline__ const float* angles() const {
    return rows_.angles + static_cast<int64_t>(row_) * kHeadDim;
  }

  __device__ __forceinline__ int64_t slot() const { return __ldcg(rows_.slots + row_); }

 private:
  const AppendedRows& rows_;
  const int32_t row_;
  const float* const qkv_;
};

// The key of a slot in the pool; its value is params.value_offset further on.
template <int32_t kHeadDim>
__device__ __forceinline__ std::byte* KeyInPool(const AttentionCudaParams& params,
                                                int32_t kv_head,
                                                int64_t slot) {
  const int64_t in_block = slot & ((1 << params.block_shift) - 1);
  return const_cast<std::byte*>(params.pool) + (slot >> params.block_shift) * params.block_bytes +
         params.layer_offset + kv_head * params.plane_bytes + in_block * (kHeadDim * 2);
}

}  // namespace ringserve::cuda
