#include "kernels/matmul_plan_cuda.h"

#include <algorithm>

#include "kernels/types.h"

namespace ringserve::cuda::matmul {
namespace {

constexpr int32_t kGroupRows = 64;
constexpr int32_t kPanelRowBytes = 128;
constexpr int32_t kPanelColumns = 64;
constexpr int32_t kMaxColumns = 256;
constexpr int32_t kMaxStages = 16;
constexpr int32_t kAlignment = 1024;
// Of an SM's 228 KiB. Two blocks of half of it, of which the second could ask for its weights under
// the end of the first, are slower: 4096 -> 28672 for one row at 4.04 TB/s on an H200, not 4.29.
constexpr int32_t kSharedBytes = 226 * 1024;

// Rough rates of an H200 a clock and SM: enough to rank tilings.
constexpr double kIngressBytes = 40;
constexpr double kProducts = 2048 * 0.9;
constexpr double kMemoryBytes = 2400;  // all SMs together
constexpr double kTileClocks = 1500;   // to start and store a tile

// Of weights to have in the second-level cache before the product begins, all blocks together:
// 4096 -> 28672 for one row at 4.37 TB/s, not 4.29. Narrow tiles lose by it.
constexpr int32_t kAheadBytes = 16 << 20;

constexpr uint64_t kEvictNormal = 0x1000000000000000U;
constexpr uint64_t kEvictFirst = 0x12f0000000000000U;

int32_t XRows(int32_t num_rows, int32_t groups) {
  if (groups > 1) {
    return kGroupRows * groups;
  }
  int32_t rows = 8;
  while (rows < num_rows && rows < kGroupRows) {
    rows *= 2;
  }
  return rows;
}

// N of wgmma for a tile: those that LaunchHopper is compiled for. Few rows wait for their bytes
// anyway, so that coarse steps do for them.
int32_t WgmmaColumns(int32_t tile_columns, int32_t groups) {
  for (const int32_t columns : {32, 64, 96, 128, 192, 224}) {
    const bool exists = groups > 1 || columns == 32 || columns == 64 || columns == 128;
    if (exists && tile_columns <= columns) {
      return columns;
    }
  }
  return kMaxColumns;
}

// Blocks that share x: pays where products take the time.
int32_t Cluster(int32_t x_rows, const HopperTuning& tuning) {
  if (tuning.cluster > 0) {
    return std::min(tuning.cluster, x_rows / 8);
  }
  return x_rows <= kGroupRows ? 1 : 2;
}

struct Tiling {
  int32_t row_tiles = 0;
  int32_t column_tiles = 0;
  double clocks = 0;
};

Tiling Cut(
    const HopperShape& shape, int32_t groups, int32_t cluster, int32_t sms, int32_t tile_columns) {
  Tiling tiling;
  tiling.row_tiles = CeilDiv(shape.num_rows, kGroupRows * groups);
  tiling.column_tiles = RoundUp(CeilDiv(shape.num_columns, tile_columns), cluster);
  const int64_t tiles = int64_t{tiling.row_tiles} * tiling.column_tiles;
  const auto waves = static_cast<double>(CeilDiv<int64_t>(tiles, sms));
  const int32_t x_rows = XRows(shape.num_rows, groups);
  const double busy = static_cast<double>(std::min<int64_t>(tiles, sms));
  const double ingress = (x_rows + tile_columns) * kPanelRowBytes / kIngressBytes;
  const double compute =
      64.0 * groups * WgmmaColumns(tile_columns, groups) * kPanelColumns / kProducts;
  const double memory = busy / tiling.row_tiles * tile_columns * kPanelRowBytes / kMemoryBytes;
  const double panel = std::max({ingress, compute, memory});
  tiling.clocks = waves * (CeilDiv(shape.cols, kPanelColumns) * panel + kTileClocks);
  return tiling;
}

struct Choice {
  int32_t groups = 0;
  int32_t cluster = 0;
  int32_t tile_columns = 0;
  Tiling tiling;
};

// Measured on an H200 for one row, us, by rows | by wgmma: 4096 -> 6144 13.7 | 16.0, 14336 -> 4096
// 29.1 | 30.8, but 4096 -> 4096 11.9 | 10.8.
bool ByRows(const HopperShape& shape, int32_t tile_columns, const HopperTuning& tuning) {
  constexpr int32_t kLongChain = 8192;
  return shape.num_rows <= kRowsMax && tile_columns <= kRowsColumns && tuning.groups == 0 &&
         tuning.cluster <= 1 && (tile_columns > 32 || shape.cols >= kLongChain);
}

// Tiles that give every SM one, two, ... of them, and the usual ones.
void Consider(const HopperShape& shape,
              int32_t num_sms,
              int32_t groups,
              const HopperTuning& tuning,
              Choice& best) {
  const int32_t unit = shape.gated ? 16 : 8;
  const int32_t cluster = Cluster(XRows(shape.num_rows, groups), tuning);
  const int32_t sms = num_sms / cluster * cluster;
  const auto consider = [&](int32_t tile_columns) {
    if (ByRows(shape, tile_columns, tuning)) {
      tile_columns = RoundUp(tile_columns, 16);
    }
    const Tiling tiling = Cut(shape, groups, cluster, sms, tile_columns);
    if (best.tile_columns == 0 || tiling.clocks < best.tiling.clocks) {
      best = {groups, cluster, tile_columns, tiling};
    }
  };
  if (tuning.tile_columns > 0) {
    consider(RoundUp(tuning.tile_columns, unit));
    return;
  }
  const int32_t row_tiles = CeilDiv(shape.num_rows, kGroupRows * groups);
  for (int32_t wave = 1; wave <= 12; ++wave) {
    const int32_t column_tiles = sms * wave / row_tiles / cluster * cluster;
    if (column_tiles == 0) {
      continue;
    }
    const int32_t tile_columns = RoundUp(CeilDiv(shape.num_columns, column_tiles), unit);
    if (tile_columns <= kMaxColumns) {
      consider(std::max(tile_columns, 16));
    }
  }
  consider(128);
  consider(192);
  consider(kMaxColumns);
}

Choice Choose(const HopperShape& shape, int32_t num_sms, const HopperTuning& tuning) {
  Choice best;
  if (tuning.groups != 2) {
    Consider(shape, num_sms, 1, tuning, best);
  }
  if (tuning.groups == 2 || (tuning.groups == 0 && shape.num_rows > kGroupRows)) {
    Consider(shape, num_sms, 2, tuning, best);
  }
  return best;
}

}  // namespace

HopperPlan PlanHopper(const HopperShape& shape, int32_t num_sms, const HopperTuning& tuning) {
  const Choice choice = Choose(shape, num_sms, tuning);
  HopperPlan plan;
  plan.columns = WgmmaColumns(choice.tile_columns, choice.groups);
  plan.groups = choice.groups;
  HopperParams& p = plan.params;
  p.num_rows = shape.num_rows;
  p.num_columns = shape.num_columns;
  p.x_rows = XRows(shape.num_rows, choice.groups);
  p.tile_rows = kGroupRows * choice.groups;
  p.tile_columns = choice.tile_columns;
  plan.by_rows = ByRows(shape, choice.tile_columns, tuning);
  const int32_t panels = plan.by_rows ? kRowsPanels : SlabPanels(plan.columns, plan.groups);
  p.num_slabs = CeilDiv(shape.cols, panels * kPanelColumns);
  p.weight_offset = panels * p.x_rows * kPanelRowBytes;
  p.stage_bytes = p.weight_offset + panels * p.tile_columns * kPanelRowBytes;
  // The operands of wgmma reach over the rows that a stage holds.
  const int32_t overhang = std::max(p.tile_rows - p.x_rows, plan.columns - p.tile_columns);
  const int32_t reserve = kAlignment + overhang * kPanelRowBytes;
  const int32_t budget = tuning.shared_bytes > 0 ? tuning.shared_bytes : kSharedBytes;
  p.num_stages = std::clamp((budget - reserve) / p.stage_bytes, 2, kMaxStages);
  plan.shared_bytes = p.num_stages * p.stage_bytes + reserve;
  p.row_tiles = choice.tiling.row_tiles;
  p.column_tiles = choice.tiling.column_tiles;
  p.num_tiles = p.row_tiles * p.column_tiles;
  p.group_row_tiles = std::min(p.row_tiles, 16);
  p.cluster = choice.cluster;
  p.weight_policy = p.row_tiles == 1 ? kEvictFirst : kEvictNormal;
  plan.grid = std::min(p.num_tiles, num_sms / p.cluster * p.cluster);
  const int32_t ahead = tuning.ahead_bytes > 0               ? tuning.ahead_bytes
                        : choice.tile_columns > kRowsColumns ? kAheadBytes
                                                             : 0;
  p.ahead_slabs = p.row_tiles == 1 ? ahead / plan.grid / (p.stage_bytes - p.weight_offset) : 0;
  return plan;
}

}  // namespace ringserve::cuda::matmul
