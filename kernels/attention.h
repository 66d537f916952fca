// Exact attention of one layer, executed tile by tile from a TilePlan.
// Method: online softmax (Milakov and Gimelshein 2018), tiled as in FlashAttention (Dao et al.
// 2022, algorithm 1), keys split and merged by log-sum-exp as in Flash-Decoding (2023).
//
//   q    [num_rows, num_heads, head_dim]  rotated, `q_dtype`, row stride q_stride elements
//   kv   keys and values of the layer, `kv.layout.dtype`
//   out  [num_rows, num_heads, head_dim]  `out_dtype`, row stride out_stride elements
// Row r at position p sees the keys of its sequence's entries whose position is in (p - window, p],
// or all of them if the plan is not causal; sink entries are seen by every row of their sequence.
// Softmax is in float32 over the scores: with
// s = `scale` * q.k and d the key's position less the row's, softcap * tanh(s / softcap) if there
// is a softcap, else s, plus bias[h, reach + d], d held to [-reach, reach]. Query head h reads KV
// head h / (num_heads / num_kv_heads). Slots that no row sees are never read. `out` overlaps
// nothing.
#pragma once

#include <cstdint>

#include "kernels/kv_view.h"
#include "kernels/tile_plan.h"
#include "kernels/types.h"

namespace ringserve {

class ThreadPool;

struct AttentionArgs {
  const TilePlan* plan = nullptr;
  const void* q = nullptr;
  KvView kv;
  void* out = nullptr;
  int64_t q_stride = 0;
  int64_t out_stride = 0;
  int32_t num_heads = 0;
  float scale = 0;
  DType q_dtype = DType::kF32;
  DType out_dtype = DType::kF32;
  // [.., head_dim / 2, 2] cosine and sine per row of the step's angle table (rope.h); for sinks
  // only.
  const float* angles = nullptr;
  float softcap = 0;  // 0: none
  // [num_heads]: the score of one more key of each head, whose value is 0; or null.
  const float* sink_logits = nullptr;
  // [num_heads, 2 * bias_reach + 1] or null. Not with sinks: their positions move.
  const float* position_bias = nullptr;
  int32_t bias_reach = 0;
  // plan->num_partials * (head_dim + 2) floats.
  float* workspace = nullptr;
};

// Null if every requirement holds, else a static sentence that names the first broken one.
[[nodiscard]] const char* CheckAttentionArgs(const AttentionArgs& args);

// What it means, in arithmetic of T (float or double), plain loops over positions, no tiles: writes
// [num_rows, num_heads, head_dim] to `out`. `round_p` rounds the probabilities before the product
// with V (the yardstick of the tests); kF32 leaves them.
template <typename T>
void AttentionRef(const AttentionArgs& args, DType round_p, T* out);

// The tiled version. Deterministic: see tile_plan.h. Blocks until done; any thread, one call per
// pool.
void AttentionCpu(const AttentionArgs& args, ThreadPool& pool);

}  // namespace ringserve
