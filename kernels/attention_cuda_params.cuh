// What every attention kernel is launched with.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

#include "kernels/attention_plan_cuda.h"
#include "kernels/types.h"

namespace ringserve::cuda {

struct AttentionCudaParams {
  const AttentionItem* items;
  int32_t num_items;
  int32_t window;
  int32_t tiles_per_split;
  const int32_t* blocks;
  const AttentionMerge* merges;
  const int32_t* sources;
  const void* q;
  void* out;
  int64_t q_stride;
  int64_t out_stride;
  float scale_log2;
  // Keys of block b begin at pool + b * block_bytes + layer_offset + kv_head * plane_bytes, values
  // value_offset bytes further on. As rows of head_dim elements over the whole pool (tensor copies)
  // the same in units of rows.
  const std::byte* pool;
  int64_t block_bytes;
  int64_t layer_offset;
  int64_t plane_bytes;
  int64_t value_offset;
  int32_t block_rows;
  int32_t layer_rows;
  int32_t value_rows;
  int32_t block_shift;   // log2(block_size)
  float* partial_out;    // [num_partials, head_dim]
  float2* partial_sums;  // [num_partials]: reference value, sum
  // Zero between launches: the next item to take, the blocks that are done.
  int32_t* counters;
  // The same, for each merge: its items that are done. Null: LaunchMerge folds.
  int32_t* merge_counters;
  float* scratch;  // per block of the grid: folded output rows where shared memory has no room
  // The general kernels alone read what follows.
  int32_t head_dim;          // of the pool, q and out: at most the kernel's, which pads with zeros
  float cap_scale;           // scores become tanh(score * cap_scale), scale_log2 with it; 0: none
  const float* sink_logits;  // [num_heads]: of one more key of each head, whose value is 0; or null
  const float* angles;       // [.., head_dim / 2, 2], of sinks
  const ListedRow* rows;     // that items list
  // [num_heads][2 * bias_reach + 1], of distances from -bias_reach on; or null. bias_scale turns
  // one into units of scores.
  const float* position_bias;
  int32_t bias_reach;
  float bias_scale;
};

// A kernel's head_dim for heads of this one; also the stride of partial results and scratch rows.
constexpr int32_t PaddedHeadDim(int32_t head_dim) {
  return head_dim <= 64 ? 64 : head_dim <= 128 ? 128 : 256;
}

// The head_dim of memory.
template <int32_t kHeadDim, bool kGeneral>
__host__ __device__ inline int32_t HeadDim(const AttentionCudaParams& params) {
  return kGeneral ? params.head_dim : kHeadDim;
}

}  // namespace ringserve::cuda
