#include "engine/backend/cuda_memory.h"

#include <algorithm>
#include <functional>

#include "kernels/attention_plan_cuda.h"
#include "kernels/chain_cuda.h"
#include "kernels/matmul_cuda.h"
#include "kernels/moe_cuda.h"
#include "kernels/sample_cuda.h"

namespace ringserve {
namespace {

using Add = std::function<void(int64_t count, int64_t element_bytes)>;

// A plan of so many items, each of which may have partial results or list rows.
void AddPlan(int64_t max_items,
             int64_t max_listed,
             int64_t max_entries,
             int64_t max_partials,
             const Add& add) {
  add(max_items, sizeof(cuda::AttentionItem));
  add(max_partials, sizeof(cuda::AttentionMerge));
  add(max_partials, 4);  // sources of merges
  add(max_entries, 4);   // blocks
  add(max_listed, sizeof(cuda::ListedRow));
  add(8, 64);  // alignment of the plan's sections
}

// Of the rows of a step.
void AddRowsPlan(const ModelConfig& config, const StepLimits& limits, const Add& add) {
  // An item has at least one partial result, or else all splits of at least one row and head.
  const int64_t max_items = limits.max_partials + int64_t{limits.max_rows} * config.num_heads;
  AddPlan(max_items, max_items, limits.max_entries, limits.max_partials, add);
}

// Of the prompts that an encoder reads, each from the first position on. An item has a partial
// result; or 64 rows and heads, but for the last of a prompt; or 8, of a prompt of a tile, which is
// no longer than a block.
void AddEncoder(const ModelConfig& config, const StepLimits& limits, const Add& add) {
  const int64_t rows = limits.max_encoder_rows;
  const int64_t blocks = CeilDiv<int64_t>(rows, limits.block_size);
  const int64_t prompts = std::min(blocks, limits.max_rows / limits.block_size + int64_t{1});
  const int64_t max_items =
      limits.max_partials +
      config.num_heads * (CeilDiv<int64_t>(rows, 64) + prompts * (1 + limits.block_size / 8));
  add(rows, 4);                 // token ids
  add(rows, 8);                 // slots
  add(rows, 8);                 // scratch slots
  add(config.head_dim / 2, 8);  // frequencies
  AddPlan(max_items, limits.max_partials, blocks, limits.max_partials, add);
}

// Bytes of the arrays that a step uploads (Model::Run and ComputeLogits) and of its plans.
int64_t UploadBytes(const ModelConfig& config, const StepLimits& limits) {
  const int64_t rows = limits.max_rows;
  int64_t bytes = 0;
  const Add add = [&bytes](int64_t count, int64_t element_bytes) {
    bytes += CudaStaging::PlacedBytes(count * element_bytes);
  };
  add(rows, 4);                         // token ids
  add(rows, 4);                         // learned positions
  add(rows + limits.max_sink_rows, 8);  // positions
  add(rows, 8);                         // sink slots
  // Rows whose logits are wanted and what they are sampled by, and rows whose hidden states are
  // wanted: all of them, in parts, if prompts are scored or embedded.
  const int64_t parts = 2 + rows / std::max(limits.max_logits_rows, 1);
  bytes += parts * (CudaStaging::PlacedBytes(int64_t{limits.max_logits_rows} * 4) +
                    CudaStaging::PlacedBytes(int64_t{limits.max_logits_rows} *
                                             int64_t{sizeof(cuda::SampleCudaRow)}));
  for (size_t group = 0; group < LayerGroups(config).size(); ++group) {
    add(config.head_dim / 2, 8);  // frequencies
    add(rows, 8);                 // slots
    AddRowsPlan(config, limits, add);
  }
  if (config.has_encoder()) {
    AddRowsPlan(config, limits, add);  // over encoded prompts
    AddEncoder(config, limits, add);
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
  at.chain = take(static_cast<int64_t>(cuda::kChainBytes), at.device_bytes);
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
