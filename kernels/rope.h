// Rotary position embedding (Su et al. 2021; Hugging Face layout: dimension i pairs with i +
// head_dim/2), fused with the append of keys and values into their ring slots.
#pragma once

#include <cstdint>

#include "kernels/kv_view.h"
#include "kernels/types.h"

namespace ringserve {

class ThreadPool;

// angles[i, j] = (cos, sin)(positions[i] * frequencies[j]), the product and its reduction in twice
// float64's precision: the last bit of the float is right up to positions of 2^53, ties aside.
struct RopeAnglesArgs {
  const int64_t* positions = nullptr;   // [num_rows]
  const double* frequencies = nullptr;  // [head_dim / 2]
  float* angles = nullptr;              // [num_rows, head_dim / 2, 2]
  int32_t num_rows = 0;
  int32_t head_dim = 0;
  // Cosines and sines are multiplied by it, but for frequencies of 0: these rotate nothing.
  double magnitude = 1.0;
};

// Splits the fused projection, rotates queries and keys, rounds, writes q to its buffer and k, v to
// their slots in the pool. Without heads (num_heads 0) it only appends, without KV heads
// (kv.layout.num_kv_heads 0) it only writes q. A row whose sink_slots entry is not -1 also writes
// its key unrotated, and its value, to that slot.
struct RopeAppendArgs {
  const float* qkv = nullptr;           // [num_rows, (num_heads + 2 * num_kv_heads) * head_dim]
  const float* angles = nullptr;        // [num_rows, head_dim / 2, 2]
  const int64_t* slots = nullptr;       // [num_rows]: block * block_size + offset in block
  const int64_t* sink_slots = nullptr;  // [num_rows] or null (no row has one)
  void* q = nullptr;                    // [num_rows, num_heads, head_dim] of q_dtype
  KvView kv;
  int32_t num_rows = 0;
  int32_t num_heads = 0;
  DType q_dtype = DType::kBf16;
  // [head_dim]: every head of queries (keys) is divided by the root of its mean square and
  // multiplied by this first; null: it is not.
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  float norm_eps = 0;
};

// The key that attention sees of a sink: `key` [head_dim] of `dtype`, stored unrotated, rotated by
// the angles [head_dim / 2, 2] and rounded, with the arithmetic of RopeAppendCpu.
void RotateStoredKey(
    const std::byte* key, const float* angles, int32_t head_dim, DType dtype, std::byte* out);

// In arithmetic of T; `out` [num_rows, num_heads + 2 * num_kv_heads, head_dim] gets the rotated
// queries, the rotated keys and the values of each row; writes nothing else. Without norms.
template <typename T>
void RopeRef(const RopeAppendArgs& args, T* out);

void RopeAnglesCpu(const RopeAnglesArgs& args, ThreadPool& pool);
void RopeAppendCpu(const RopeAppendArgs& args, ThreadPool& pool);

}  // namespace ringserve
