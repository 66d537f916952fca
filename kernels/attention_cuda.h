// Attention of one layer on a CUDA device: runs a TilePlan (packed by attention_plan_cuda.h)
// over the pool of blocks. Meaning, shapes and determinism are those of attention.h and
// tile_plan.h; a row's result is the same bits from the decode and the prefill kernels.
//
// Element types: q, out, keys and values all bf16 or all f16. Slots that no row sees may be copied
// together with their block, but never reach a result.
//
// Some calls are general: with soft-capping, with learned sinks, with biases by position, or with a
// head_dim other than 64, 96, 128 and 256. They run on the kernels for sm_80 whatever the device.
// So do items with sinks, and items of several sequences that share the keys, beside others that do
// not.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

#include "kernels/attention_plan_cuda.h"
#include "kernels/kv_view.h"
#include "kernels/rope.h"
#include "kernels/types.h"

namespace ringserve::cuda {

enum class AttentionKernels {
  kBest,      // what the device can run fastest
  kPortable,  // those for sm_80
};

// What the launches need to know of a device; made once.
struct AttentionDevice {
  int32_t num_sms = 0;
  int32_t shared_bytes = 0;  // most a block may have
  bool hopper = false;
  void* encode_tensor_map = nullptr;  // the driver's cuTensorMapEncodeTiled
};

[[nodiscard]] cudaError_t FindAttentionDevice(int32_t device, AttentionDevice& found);

struct AttentionCudaArgs {
  AttentionPlanView plan;
  const void* q = nullptr;  // [num_rows, num_heads, head_dim], row stride q_stride elements
  KvView kv;                // the pool in device memory, 128-byte aligned
  int32_t num_blocks = 0;   // of the pool
  void* out = nullptr;      // as q, row stride out_stride
  int64_t q_stride = 0;     // strides: multiples of 8 elements
  int64_t out_stride = 0;
  int32_t num_rows = 0;
  int32_t num_heads = 0;
  float scale = 0;                     // > 0
  float softcap = 0;                   // 0: none
  const float* sink_logits = nullptr;  // [num_heads] or null
  const float* angles = nullptr;       // for sinks only
  // [num_heads, 2 * bias_reach + 1] or null; as attention.h says.
  const float* position_bias = nullptr;
  int32_t bias_reach = 0;
  DType dtype = DType::kBf16;
  // Not null: what LaunchRopeAppend would do comes first, but for writing q, which is not read.
  // Requires TakesRope.
  const RopeAppendArgs* rope = nullptr;
  // AttentionWorkspaceBytes(device, head_dim, max_partials) bytes, 256-byte aligned; the first
  // AttentionZeroedBytes(max_partials) of them zero before the first call, and left zero by every
  // call. max_partials must not change: at least any plan's num_partials.
  std::byte* workspace = nullptr;
  int64_t max_partials = 0;
};

int64_t AttentionZeroedBytes(int64_t max_partials);
int64_t AttentionWorkspaceBytes(const AttentionDevice& device,
                                int32_t head_dim,
                                int64_t max_partials);

// Null if every requirement holds, else a static sentence that names the first broken one.
[[nodiscard]] const char* CheckAttentionCudaArgs(const AttentionCudaArgs& args);

// Whether LaunchAttention can do the rotation and the append of `rope` together with `args`: for
// rows that are each alone in their sequence, on sm_90, with head_dim 64 or 128, and without norms
// or sinks.
[[nodiscard]] bool TakesRope(const AttentionDevice& device,
                             const AttentionCudaArgs& args,
                             const RopeAppendArgs& rope,
                             AttentionKernels kernels);

// Of shared memory, a block's of LaunchAttention if it may run beside one of another kernel: with
// the rotation of a single row over a context of few tiles. Else 0.
[[nodiscard]] int32_t RowBlockBytes(const AttentionDevice& device, const AttentionCudaArgs& args);

// Enqueues; returns an error only if a launch failed. On sm_90 the kernels are launched with
// programmatic dependent launch: the plan and, if it is causal, all keys and values at positions
// before its sequences' first rows must be complete before the kernel that precedes this call in
// the stream lets its dependents start (by itself it does so when it ends). All else is waited for.
[[nodiscard]] cudaError_t LaunchAttention(const AttentionDevice& device,
                                          const AttentionCudaArgs& args,
                                          AttentionKernels kernels,
                                          cudaStream_t stream);

}  // namespace ringserve::cuda
