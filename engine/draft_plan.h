// What a model that drafts for another needs: whether it can, with which rings, and its memory.
#pragma once

#include "engine/backend/backend.h"
#include "engine/base/status.h"
#include "engine/engine_config.h"
#include "engine/memory_plan.h"
#include "engine/model/model_config.h"

namespace ringserve {

// Of speculation.draft_path. INVALID_ARGUMENT naming the config key if it cannot draft for `model`:
// another vocabulary or tokenizer, windows of its own, or too little context for max_draft.
absl::StatusOr<ModelConfig> LoadDraftConfig(const EngineConfig& config,
                                            const ModelConfig& model,
                                            const Backend& backend);

// `config` with the rings that the draft model reads into: no longer than it has positions.
EngineConfig DraftEngineConfig(const EngineConfig& config, const ModelConfig& draft);

// Adds to `plan` what the draft model takes: its weights, a KV pool of scheduler.max_batch whole
// readers, its workspace and what its steps send. `model`: what it drafts for, planned already.
absl::Status PlanDraft(const EngineConfig& config,
                       const ModelConfig& model,
                       const ModelConfig& draft,
                       const Backend& backend,
                       MemoryPlan& plan);

}  // namespace ringserve
