#include "engine/draft_plan.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "engine/base/json_reader.h"
#include "engine/model/weights.h"

namespace ringserve {
namespace {

constexpr int64_t kMaxTokenizerBytes = int64_t{1} << 30;

template <typename... Args>
absl::Status Invalid(fmt::format_string<Args...> format, Args&&... args) {
  return absl::InvalidArgumentError("speculation." +
                                    fmt::format(format, std::forward<Args>(args)...));
}

// Equal bytes: what is read by one model means the same to the other.
absl::Status CheckSameTokenizer(const std::string& model_dir, const std::string& draft_dir) {
  for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
    const std::string path = model_dir + "/" + name;
    if (!std::filesystem::exists(path)) {
      continue;
    }
    ASSIGN_OR_RETURN(const std::string ours, ReadFile(path, kMaxTokenizerBytes));
    const absl::StatusOr<std::string> theirs = ReadFile(draft_dir + "/" + name, kMaxTokenizerBytes);
    if (!theirs.ok()) {
      return Invalid("draft_path: {}", std::string(theirs.status().message()));
    }
    if (ours != *theirs) {
      return Invalid("draft_path: {}/{} is not that of the model", draft_dir, name);
    }
    return absl::OkStatus();
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> LoadDraftConfig(const EngineConfig& config,
                                            const ModelConfig& model,
                                            const Backend& backend) {
  const EngineConfig::Speculation& speculation = config.speculation;
  absl::StatusOr<ModelConfig> draft = LoadModelConfig(speculation.draft_path);
  if (!draft.ok()) {
    return Invalid("draft_path: {}", std::string(draft.status().message()));
  }
  if (draft->vocab_size != model.vocab_size) {
    return Invalid("draft_path: its vocabulary has {} tokens, the model's {}",
                   draft->vocab_size,
                   model.vocab_size);
  }
  if (model.has_encoder() || draft->has_encoder()) {
    return Invalid("draft_path: an encoder-decoder neither drafts nor is drafted for");
  }
  const auto groups = LayerGroups(*draft);
  if (groups.size() > 1 || groups.front().window != kNoWindow) {
    return Invalid("draft_path: {} has attention windows, and such models do not draft yet",
                   draft->architecture);
  }
  RETURN_IF_ERROR(CheckSameTokenizer(config.model.path, speculation.draft_path));
  const absl::Status runs =
      backend.CheckModel(*draft, RunDType(config.model.dtype, *draft, backend.info()));
  if (!runs.ok()) {
    return Invalid("draft_path: {}", std::string(runs.message()));
  }
  // A reader whose ring is full begins again with half of it.
  const int64_t room = DraftEngineConfig(config, *draft).rings.buffer_size / 2;
  if (speculation.max_draft > room) {
    return Invalid("max_draft: {} is more than {}, half of the draft model's context",
                   speculation.max_draft,
                   room);
  }
  return draft;
}

EngineConfig DraftEngineConfig(const EngineConfig& config, const ModelConfig& draft) {
  EngineConfig own = config;
  const int64_t positions = draft.max_positions / own.rings.block_size * own.rings.block_size;
  own.rings.buffer_size = std::min(own.rings.buffer_size, positions);
  own.rings.overflow = OverflowPolicy::kRefuse;
  own.rings.sink_size = 0;
  own.attention.head_tile_size = 0;
  return own;
}

absl::Status PlanDraft(const EngineConfig& config,
                       const ModelConfig& model,
                       const ModelConfig& draft,
                       const Backend& backend,
                       MemoryPlan& plan) {
  const EngineConfig own = DraftEngineConfig(config, draft);
  const DType dtype = RunDType(config.model.dtype, draft, backend.info());
  const StepLimits limits = MakeStepLimits(own, draft, backend.info());
  RETURN_IF_ERROR(backend.CheckSteps(limits));
  plan.draft_kv = MakeKvLayout(own.rings, draft, dtype);
  plan.draft_blocks = config.scheduler.max_batch * BlocksPerSession(own, draft).global;
  if (plan.draft_blocks > std::numeric_limits<int32_t>::max()) {
    return Invalid(
        "draft_path: {} blocks of {} tokens are too many; take a larger rings.block_size",
        plan.draft_blocks,
        own.rings.block_size);
  }
  plan.draft_weight_bytes = Weights::SlabBytes(draft, dtype, backend);
  BackendMemory steps = backend.StepMemory(draft, dtype, limits);
  if (!backend.info().serves_one_model) {  // the larger of both serves both
    const BackendMemory shared =
        backend.StepMemory(model, plan.kv.dtype, MakeStepLimits(config, model, backend.info()));
    steps.device_bytes = std::max<int64_t>(steps.device_bytes - shared.device_bytes, 0);
    steps.pinned_bytes = std::max<int64_t>(steps.pinned_bytes - shared.pinned_bytes, 0);
  }
  plan.draft_workspace_bytes = Model::WorkspaceBytes(draft, dtype, limits) + steps.device_bytes;
  plan.staging_bytes += steps.pinned_bytes;
  return absl::OkStatus();
}

}  // namespace ringserve
