#include "engine/backend/cuda_memory.h"

#include <algorithm>

#include "kernels/attention_plan_cuda.h"
#include "kernels/chain_cuda.h"
#include "kernels/matmul_cuda.h"
#include "kernels/moe_cuda.h"
#include "kernels/sample_cuda.h"

namespace ringserve {
namespace {

// Bytes of the arrays that a step uploads (Model::Run and ComputeLogits) and of its attention plan.
int64_t UploadBytes(const ModelConfig& config, const StepLimits& limits) {
  const int64_t rows = limits.max_rows;
  int64_t bytes = 0;
  const auto add = [&bytes](int64_t count, int64_t element_bytes) {
    bytes += CudaStaging::PlacedBytes(count * element_bytes);
  };
  add(rows, 4);                         // token ids
  add(rows, 4);                         // learned positions
  add(rows + limits.max_sink_rows, 8);  // positions
  add(rows, 8);                         // sink slots
  // Rows whose logits are wanted: all of them, in parts, if a prompt is scored.
  const int64_t parts = 1 + rows / std::max(limits.max_logits_rows, 1);
  bytes += parts * CudaStaging::PlacedBytes(int64_t{limits.max_logits_rows} * 4);
  // An item has at least one partial result, or else all splits of at least one row and head.
  const int64_t whole_items = rows * config.num_heads;
  for (size_t group = 0; group < LayerGroups(config).size(); ++group) {
    add(config.head_dim / 2, 8);  // frequencies
    add(rows, 8);                 // slots
    add(limits.max_partials + whole_items, sizeof(cuda::AttentionItem));
    add(std::min(limits.max_partials, whole_items), sizeof(cuda::AttentionMerge));
    add(limits.max_partials, 4);                // sources of merges
    add(limits.max_entries, 4);                 // blocks
    add(limits.max_partials + whole_items, 4);  // rows that items list
    add(8, 64);                                 // alignment of the plan's sections
  }
  return bytes;
}

}  // namespace

CudaStepMemory PlanCudaSteps(const ModelConfig& config,
                             const StepLimits& limits,
                             const cuda::AttentionDevice& device) {
  CudaStepMemory at;
  at.staging = {.upload_bytes = UploadBytes(config, limits), .max_results = limits.max_rows};
  const auto take = [](int64_t bytes, int64_t& end) {
    const int64_t offset = end;
    end += CudaStaging::PlacedBytes(bytes);
    return offset;
  };
  at.device_bytes = at.staging.device_bytes();
  at.attention = take(cuda::AttentionWorkspaceBytes(device, config.head_dim, limits.max_partials),
                      at.device_bytes);
  at.matmul = take(static_cast<int64_t>(cuda::MatMulDevice::WorkspaceBytes()), at.device_bytes);
  at.chain = take(static_cast<int64_t>(cuda::kChainCounterBytes), at.device_bytes);
  at.routes = take(config.moe.num_experts == 0
                       ? 0
                       : cuda::RoutesBytes(
                             limits.max_rows, config.moe.experts_per_token, config.moe.num_experts),
                   at.device_bytes);
  at.sample = take(
      static_cast<int64_t>(cuda::SampleWorkspaceBytes(limits.max_logits_rows, config.vocab_size)),
      at.device_bytes);
  at.feedback = take(2 * at.staging.max_results * 4, at.device_bytes);
  at.pinned_bytes = at.staging.pinned_bytes();
  at.logits = take(int64_t{kHostSampleRows} * config.vocab_size * 4, at.pinned_bytes);
  at.ids = take(int64_t{kHostSampleRows} * 4, at.pinned_bytes);
  return at;
}

}  // namespace ringserve
