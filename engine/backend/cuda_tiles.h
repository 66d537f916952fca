// The tile plans of the step at hand, as the CUDA attention kernels read them.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "engine/backend/backend.h"
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

  // Packs the plans into `staging`; they stay as they are until the next Begin. INTERNAL if they
  // are none that the kernels can run.
  absl::Status Begin(const StepTiles& tiles,
                     const cuda::AttentionPlanShape& shape,
                     CudaStaging& staging);

  // Those over the pool of blocks: all but the encoder's.
  std::span<const Planned> pool_plans() const { return std::span(planned_).first(num_pool_plans_); }

  // Steps of one kind run the same kernels (CudaGraph). -1: the step is of no kind, for its shape
  // will hardly come again.
  int64_t kind() const;

  // That of `tiles`, which Begin was given.
  const Planned& Find(const TilePlan* tiles) const;

 private:
  // Kept for their vectors' capacity.
  std::array<Planned, 3> planned_;
  Planned encoder_;
  size_t num_pool_plans_ = 0;
};

}  // namespace ringserve
