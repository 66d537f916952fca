// Rotary position embedding (Su et al. 2021; Hugging Face layout: dimension i pairs with i +
// head_dim/2), fused with the append of keys and values into their ring slots.
#pragma once

#include <cstdint>

#include "kernels/kv_view.h"
#include "kernels/types.h"

namespace ringserve {

class ThreadPool;

// angles[i, j] = (cos, sin)(positions[i] * frequencies[j]), reduced in float64: exact beyond 2^31.
struct RopeAnglesArgs {
  const int64_t* positions = nullptr;   // host, [num_rows]
  const double* frequencies = nullptr;  // host, [head_dim / 2]
  float* angles = nullptr;              // [num_rows, head_dim / 2, 2]
  int32_t num_rows = 0;
  int32_t head_dim = 0;
};

// Splits the fused projection, rotates queries and keys, rounds, writes q to its buffer and k, v to
// their slots in the pool. A row whose sink_slots entry is not -1 also writes its key unrotated,
// and its value, to that slot.
struct RopeAppendArgs {
  const float* qkv = nullptr;           // [num_rows, (num_heads + 2 * num_kv_heads) * head_dim]
  const float* angles = nullptr;        // [num_rows, head_dim / 2, 2]
  const int64_t* slots = nullptr;       // host, [num_rows]: block * block_size + offset in block
  const int64_t* sink_slots = nullptr;  // host, [num_rows] or null (no row has one)
  void* q = nullptr;                    // [num_rows, num_heads, head_dim] of q_dtype
  KvView kv;
  int32_t num_rows = 0;
  int32_t num_heads = 0;
  DType q_dtype = DType::kBf16;
};

void RopeAnglesCpu(const RopeAnglesArgs& args, ThreadPool& pool);
void RopeAppendCpu(const RopeAppendArgs& args, ThreadPool& pool);

}  // namespace ringserve
