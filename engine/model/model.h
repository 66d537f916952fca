// The layer loop of a decoder, and of an encoder before it, written once over Backend. Knows rows,
// positions and slots; no sessions, no requests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>

#include "engine/backend/backend.h"
#include "engine/base/status.h"
#include "engine/model/model_config.h"
#include "kernels/kv_view.h"
#include "kernels/tile_plan.h"

namespace ringserve {

class Weights;

// Where the layers of the second window group (LayerGroups) read and write in one step.
struct LocalStep {
  const TilePlan* tiles = nullptr;
  // Null: they read and write the slots of the first group, whose blocks then hold all layers of
  // the model, numbered as in the model. Otherwise both groups have blocks of their own, and their
  // layers are numbered within the group.
  std::byte* kv_pool = nullptr;
  KvLayout kv;
  std::span<const int64_t> slots = {};  // [num_rows]
};

// The prompts that an encoder reads in one step, each from its first row to its last: every row
// sees them all. Rows and tiles count apart from those of the step.
struct EncoderStep {
  std::span<const int32_t> token_ids;  // [num_rows]
  // [num_rows]: where the decoder's layers find a row's keys and values from then on.
  std::span<const int64_t> slots;
  // [num_rows]: where the encoder's own layers do, one after the other, in as many blocks as
  // max_encoder_rows fill, which the model has for it.
  std::span<const int64_t> scratch_slots;
  const TilePlan* tiles = nullptr;  // over those blocks; not causal
  // The encoder's layers that run in this step; by itself all of them. Layers may take several
  // steps, of the same prompts, one after the other from layer 0 on; `slots` are for the last of
  // these, and may be empty in those before.
  int32_t first_layer = 0;
  int32_t end_layer = std::numeric_limits<int32_t>::max();  // or more than there are
};

// The rows of one step. Host memory, borrowed for the call.
struct StepInput {
  std::span<const int32_t> token_ids;  // [num_rows]
  // [num_rows + sink rows]: where each row stands, then where each sink key is rotated to
  // (BlockEntry::sink_angle_row counts from 0 over both).
  std::span<const int64_t> positions;
  std::span<const int64_t> slots;       // [num_rows]: block * block_size + offset
  std::span<const int64_t> sink_slots;  // [num_rows], -1: none; or empty: no row writes a sink
  const TilePlan* tiles = nullptr;      // of the first window group
  const LocalStep* local = nullptr;     // models of two groups
  // Models with an encoder: the rows over the encoded prompts, not causal; and the prompts that are
  // encoded first, null: none.
  const TilePlan* cross_tiles = nullptr;
  const EncoderStep* encoder = nullptr;
};

// One thread.
class Model {
 public:
  // Device bytes of the workspace that Create allocates. Pure.
  static int64_t WorkspaceBytes(const ModelConfig& config, DType dtype, const StepLimits& limits);

  // Also prepares the backend's steps. `weights` and `backend` must outlive the model.
  static absl::StatusOr<std::unique_ptr<Model>> Create(const ModelConfig& config,
                                                       const Weights& weights,
                                                       const StepLimits& limits,
                                                       Backend& backend);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  // Enqueues the layers for all rows: appends their keys and values to the slots of `kv_pool`, or
  // of the local one.
  absl::Status Run(const StepInput& input, std::byte* kv_pool, const KvLayout& kv);

  // Enqueues the logits of `rows` (at most max_logits_rows) of the last Run. Returns float32
  // [rows.size(), vocab_size] in device memory, valid until the next call of any of these methods.
  absl::StatusOr<const float*> ComputeLogits(std::span<const int32_t> rows);

  // The same of their hidden states: float32 [rows.size(), hidden_dim], after the final norm.
  absl::StatusOr<const float*> ComputeHidden(std::span<const int32_t> rows);

  const StepLimits& limits() const;
  int32_t hidden_dim() const;

 private:
  struct State;
  explicit Model(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace ringserve
