// Runs the rows of a step: tiles, layers, logits, sampling.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include <absl/time/time.h>

#include "engine/backend/backend.h"
#include "engine/base/status.h"
#include "engine/model/model.h"
#include "engine/plan/tile_planner.h"
#include "engine/step_batch.h"
#include "kernels/kv_view.h"
#include "kernels/tile_plan.h"

namespace ringserve {

// Borrows all that it is given. One thread.
class StepRunner {
 public:
  struct Parts {
    Backend* backend = nullptr;
    Model* model = nullptr;
    std::byte* kv_pool = nullptr;  // device memory
    KvLayout kv;
    TileOptions tiles;
    // Of the layers that see a window in a model where others see everything, and their blocks.
    std::optional<TileOptions> local_tiles = std::nullopt;
    std::byte* local_kv_pool = nullptr;
    KvLayout local_kv = {};
    bool has_encoder = false;
    int32_t vocab_size = 0;
  };

  explicit StepRunner(const Parts& parts) : parts_(parts) {}

  // Enqueues a step; `batch` stays as it is until it was awaited. After an error the pool's
  // contents are not defined.
  absl::Status Launch(StepBatch& batch);
  // Blocks until the oldest step launched and not yet awaited has filled its batch's results.
  absl::Status Await();

  // Of the last Launch.
  const TileCounts& tile_counts() const { return tile_plan_.counts; }

  // Time in the backend, waiting for it included; all steps together.
  absl::Duration kernel_time() const { return kernel_time_; }

 private:
  absl::Status LaunchModel(StepBatch& batch);
  absl::Status FetchHidden(StepBatch& batch);
  void PlanSource(const StepBatch& batch);

  Parts parts_;
  TilePlan tile_plan_;
  TilePlan local_plan_;
  TilePlan cross_plan_;
  TilePlan encoder_plan_;
  absl::Duration kernel_time_;
};

}  // namespace ringserve
