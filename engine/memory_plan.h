// Every byte that a served model takes, as arithmetic on its config, before anything is loaded.
// Printed first, allocated once, and compared with what was allocated.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "engine/backend/backend.h"
#include "engine/base/problems.h"
#include "engine/base/status.h"
#include "engine/cache/block_pool.h"
#include "engine/engine_config.h"
#include "engine/model/model.h"
#include "engine/model/model_config.h"
#include "engine/plan/tile_planner.h"
#include "engine/session.h"
#include "kernels/kv_view.h"

namespace ringserve {

struct MemoryPlan {
  KvLayout kv;                     // of the global layers, or of all where all see alike
  KvLayout local_kv;               // of local layers beside global ones; no layers: there are none
  int64_t weight_bytes = 0;        // device
  int64_t device_blocks = 0;       // of the device KV pool, of `kv`
  int64_t pinned_blocks = 0;       // of the host KV pool, of `kv`
  BlockPool::Tiers local_blocks;   // of both, of `local_kv`
  int64_t workspace_bytes = 0;     // device: activations, logits, attention partials
  int64_t staging_bytes = 0;       // pinned: what steps send to a device and get back
  int64_t hidden_bytes = 0;        // host: hidden states on their way into embeddings
  int64_t disk_buffer_bytes = 0;   // pinned: pieces of sessions on their way to the disk and back
  int64_t blocks_per_session = 0;  // the most that one session can hold, sinks and slack included
  int64_t local_blocks_per_session = 0;  // likewise, with what a turn keeps
  int64_t max_sessions = 0;              // that fit the device pool at their worst case
  // Of a model that drafts (draft_plan.h), if there is one; on the device.
  KvLayout draft_kv;
  int64_t draft_blocks = 0;
  int64_t draft_weight_bytes = 0;
  int64_t draft_workspace_bytes = 0;

  bool has_local() const { return local_kv.num_layers > 0; }

  int64_t local_device_kv_bytes() const { return local_blocks.num_device * local_kv.block_bytes(); }

  int64_t local_pinned_kv_bytes() const { return local_blocks.num_host * local_kv.block_bytes(); }

  // Of both sizes: the local blocks lie behind the others.
  int64_t device_kv_bytes() const {
    return device_blocks * kv.block_bytes() + local_device_kv_bytes();
  }

  int64_t pinned_kv_bytes() const {
    return pinned_blocks * kv.block_bytes() + local_pinned_kv_bytes();
  }

  // That one session can hold.
  int64_t session_bytes() const {
    return blocks_per_session * kv.block_bytes() +
           local_blocks_per_session * local_kv.block_bytes();
  }

  int64_t pinned_bytes() const { return pinned_kv_bytes() + staging_bytes + disk_buffer_bytes; }

  int64_t host_bytes() const { return pinned_bytes() + hidden_bytes; }

  int64_t draft_kv_bytes() const { return draft_blocks * draft_kv.block_bytes(); }

  int64_t draft_bytes() const {
    return draft_weight_bytes + draft_kv_bytes() + draft_workspace_bytes;
  }

  int64_t device_bytes() const {
    return weight_bytes + device_kv_bytes() + workspace_bytes + draft_bytes();
  }
};

// The dtype of weights, activations and KV on a backend.
DType RunDType(DTypePolicy policy, const ModelConfig& model, const BackendInfo& backend);

// Of the blocks of a model's first window group.
KvLayout MakeKvLayout(const EngineConfig::Rings& rings, const ModelConfig& model, DType dtype);

// Of the second; no layers: there is none.
KvLayout MakeLocalKvLayout(const EngineConfig::Rings& rings, const ModelConfig& model, DType dtype);

// How the steps of this model are cut into tiles.
TileOptions MakeTileOptions(const EngineConfig& config,
                            const ModelConfig& model,
                            const BackendInfo& backend);

// The same for layers that see a window in a model where others see everything; empty: there are
// none.
std::optional<TileOptions> MakeLocalTileOptions(const EngineConfig& config,
                                                const ModelConfig& model,
                                                const BackendInfo& backend);

// The largest step that the scheduler may make of this config.
StepLimits MakeStepLimits(const EngineConfig& config,
                          const ModelConfig& model,
                          const BackendInfo& backend);

// Floats of the hidden states that one step may bring to the host; 0: the model does not embed.
int64_t HiddenFloats(const ModelConfig& model, const StepLimits& limits);

// The rings of a session of this model: those of its first window group, and the local ring of the
// second.
SessionShape MakeSessionShape(const EngineConfig& config, const ModelConfig& model);

// The most blocks that one session ever holds, its sinks and what a turn keeps included.
BlockCounts BlocksPerSession(const EngineConfig& config, const ModelConfig& model);

// Notes what in `config` this model cannot do, naming the config key.
void CheckFit(const EngineConfig& config, const ModelConfig& model, Problems& problems);

// INVALID_ARGUMENT naming the config key when config and model do not fit, a pool cannot hold one
// session, or a part is larger than 2^60 bytes.
absl::StatusOr<MemoryPlan> PlanMemory(const EngineConfig& config,
                                      const ModelConfig& model,
                                      DType dtype,
                                      const Backend& backend);

// A table for people: one line per part, bytes and binary units, and the total.
std::string FormatMemoryPlan(const MemoryPlan& plan);

}  // namespace ringserve
