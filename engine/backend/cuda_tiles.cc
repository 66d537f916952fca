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

absl::Status CudaTiles::Begin(const StepTiles& tiles,
                              const cuda::AttentionPlanShape& shape,
                              CudaStaging& staging) {
  num_pool_plans_ = 0;
  for (const TilePlan* plan : {tiles.rows, tiles.local, tiles.cross}) {
    if (plan != nullptr) {
      RETURN_IF_ERROR(Pack(*plan, shape, staging, planned_[num_pool_plans_]));
      ++num_pool_plans_;
    }
  }
  encoder_.tiles = nullptr;
  return tiles.encoder == nullptr ? absl::OkStatus()
                                  : Pack(*tiles.encoder, shape, staging, encoder_);
}

int64_t CudaTiles::kind() const {
  const TilePlan& rows = *planned_[0].tiles;
  // Kernels of longer steps run for so long that their launches hide; shapes differ more.
  if (encoder_.tiles != nullptr || rows.sequences.size() != static_cast<size_t>(rows.num_rows)) {
    return -1;
  }
  int64_t kind = rows.num_rows;
  if (num_pool_plans_ == 1) {
    return kind;  // a kernel more shows in how many there are
  }
  for (const Planned& planned : pool_plans()) {
    const cuda::AttentionPlanView& view = planned.view;
    kind = kind * 16 + (view.num_decode > 0 ? 1 : 0) + (view.num_merges > 0 ? 2 : 0) +
           (view.num_general_decode + view.num_general_prefill > 0 ? 4 : 0) +
           (view.row_tiles > 0 ? 8 : 0);
  }
  return kind;
}

const CudaTiles::Planned& CudaTiles::Find(const TilePlan* tiles) const {
  if (tiles == encoder_.tiles) {
    return encoder_;
  }
  const std::span<const Planned> all = pool_plans();
  const auto found = std::find_if(
      all.begin(), all.end(), [tiles](const Planned& planned) { return planned.tiles == tiles; });
  RS_CHECK(found != all.end());
  return *found;
}

}  // namespace ringserve
