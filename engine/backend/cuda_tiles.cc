#include "engine/backend/cuda_tiles.h"

#include <algorithm>

#include <fmt/format.h>

#include "engine/base/check.h"

namespace ringserve {
namespace {

absl::Status Pack(const TilePlan& tiles,
                  const cuda::AttentionPlanShape& shape,
                  CudaStaging& staging,
                  CudaTiles::Planned& planned) {
  planned.tiles = &tiles;
  if (const char* problem = cuda::PackAttentionPlan(tiles, shape, planned.packed);
      problem != nullptr) {
    return absl::InternalError(fmt::format("attention: {}", problem));
  }
  planned.num_blocks = 1;
  for (const BlockEntry& entry : tiles.entries) {
    planned.num_blocks = std::max(planned.num_blocks, entry.block + 1);
  }
  ASSIGN_OR_RETURN(const CudaStaging::Place place,
                   staging.Take(static_cast<size_t>(cuda::PackedBytes(planned.packed))));
  planned.view = cuda::WritePlan(planned.packed, place.host, place.device);
  return absl::OkStatus();
}

}  // namespace

absl::Status CudaTiles::Begin(const TilePlan& tiles,
                              const TilePlan* local,
                              const cuda::AttentionPlanShape& shape,
                              CudaStaging& staging) {
  num_plans_ = 0;
  for (const TilePlan* plan : {&tiles, local}) {
    if (plan != nullptr) {
      RETURN_IF_ERROR(Pack(*plan, shape, staging, planned_[num_plans_]));
      ++num_plans_;
    }
  }
  return absl::OkStatus();
}

const CudaTiles::Planned& CudaTiles::Find(const TilePlan* tiles) const {
  const std::span<const Planned> all = plans();
  const auto found = std::find_if(
      all.begin(), all.end(), [tiles](const Planned& planned) { return planned.tiles == tiles; });
  RS_CHECK(found != all.end());
  return *found;
}

}  // namespace ringserve
