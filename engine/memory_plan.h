// Every byte that a served model takes, as arithmetic on its config, before anything is loaded.
// Printed first, allocated once, and compared with what was allocated.
#pragma once

#include <cstdint>
#include <string>

#include "engine/backend/backend.h"
#include "engine/base/status.h"
#include "engine/engine_config.h"
#include "engine/model/model_config.h"
#include "kernels/kv_view.h"

namespace ringserve {

struct MemoryPlan {
  KvLayout kv;                     // of the one window group
  int64_t weight_bytes = 0;        // device
  int64_t device_blocks = 0;       // of the device KV pool
  int64_t pinned_blocks = 0;       // of the host KV pool
  int64_t workspace_bytes = 0;     // device: activations, logits, attention partials
  int64_t blocks_per_session = 0;  // the most that one session can hold, sinks and slack included
  int64_t max_sessions = 0;        // that fit the device pool at their worst case

  int64_t device_kv_bytes() const { return device_blocks * kv.block_bytes(); }

  int64_t pinned_kv_bytes() const { return pinned_blocks * kv.block_bytes(); }

  int64_t device_bytes() const { return weight_bytes + device_kv_bytes() + workspace_bytes; }
};

// INVALID_ARGUMENT naming the config key when a pool cannot hold one session.
absl::StatusOr<MemoryPlan> PlanMemory(const EngineConfig& config,
                                      const ModelConfig& model,
                                      DType dtype,
                                      const Backend& backend);

// A table for people: one line per part, bytes and binary units, and the total.
std::string FormatMemoryPlan(const MemoryPlan& plan);

}  // namespace ringserve
