// The layer loop of a decoder, written once over Backend. Knows rows, positions and slots; no
// sessions, no requests.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "engine/backend/backend.h"
#include "engine/base/status.h"
#include "engine/model/model_config.h"
#include "kernels/tile_plan.h"

namespace ringserve {

class Weights;

// The rows of one step. Host memory, borrowed for the call.
struct StepInput {
  std::span<const int32_t> token_ids;  // [num_rows]
  std::span<const int64_t>
      positions;  // [num_rows + sink rows]: TilePlan entries' sink_angle_row points here
  std::span<const int64_t> slots;        // [num_rows]: block * block_size + offset
  std::span<const int64_t> sink_slots;   // [num_rows], or empty: no row writes a sink
  const TilePlan* tiles = nullptr;       // of the one window group
  std::span<const int32_t> logits_rows;  // rows whose logits are wanted, ascending
};

// Upper bounds of a step; the workspace is sized for them.
struct StepLimits {
  int32_t max_rows = 0;         // prefill_size + max_batch
  int32_t max_sink_rows = 0;    // max_batch * sink_size
  int32_t max_logits_rows = 0;  // rows of logits in one call
  int64_t max_partials = 0;     // TilePlan::num_partials
};

class Model {
 public:
  // Device bytes of the workspace that Create allocates. Pure.
  static int64_t WorkspaceBytes(const ModelConfig& config, DType dtype, const StepLimits& limits);
  // `weights` and `backend` must outlive the model.
  static absl::StatusOr<std::unique_ptr<Model>> Create(const ModelConfig& config,
                                                       const Weights& weights,
                                                       const StepLimits& limits,
                                                       Backend& backend);

  // Enqueues the step: appends keys and values to the pool's slots, and leaves float32 logits of
  // logits_rows, [logits_rows.size(), vocab_size], at logits() until the next call.
  absl::Status Run(const StepInput& input, std::byte* kv_pool, const KvLayout& kv);
  const float* logits() const;

 private:
  struct State;
  explicit Model(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;

 public:
  ~Model();
};

}  // namespace ringserve
