// The tile plans of the step at hand, as the CUDA attention kernels read them: one, or two where
// some layers see a window of their own.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "engine/backend/cuda_staging.h"
#include "engine/base/status.h"
#include "kernels/attention_plan_cuda.h"
#include "kernels/tile_plan.h"

namespace ringserve {

class CudaTiles {
 public:
  struct Planned {
    const TilePlan* tiles = nullptr;
    cuda::PackedAttentionPlan packed;
    cuda::AttentionPlanView view;
    int32_t num_blocks = 0;  // that its entries reach
  };

  // Packs the plans (`local` may be null) into `staging`; they stay as they are until the next
  // Begin. INTERNAL if they are none that the kernels can run.
  absl::Status Begin(const TilePlan& tiles,
                     const TilePlan* local,
                     const cuda::AttentionPlanShape& shape,
                     CudaStaging& staging);

  std::span<const Planned> plans() const { return std::span(planned_).first(num_plans_); }

  // That of `tiles`, which Begin was given.
  const Planned& Find(const TilePlan* tiles) const;

 private:
  std::array<Planned, 2> planned_;  // kept for their vectors' capacity
  size_t num_plans_ = 0;
};

}  // namespace ringserve
