#include "kernels/chain_plan_cuda.h"

#include <algorithm>

#include "kernels/types.h"

namespace ringserve::cuda::chain {
namespace {

constexpr int32_t kUnit = 16;  // weight rows of a warp
constexpr int32_t kPanelColumns = 64;
constexpr int32_t kPanelRowBytes = 128;
constexpr int32_t kMaxStages = 16;
constexpr int32_t kAlignment = 1024;
// Of a multiprocessor's 228 KiB less what it keeps for itself of two blocks.
constexpr int32_t kMultiprocessorBytes = 226 * 1024 - kStaticBytes;
// Fewer do not keep device memory busy: then nothing has room beside a block. Llama-3-8B's shape at
// 1 x 1k on an H200, tokens/s with 3, 4 and 5 stages, of which 5 leave attention no room: 250.4,
// 250.9, 240.5; where attention is never there, with 4 and 6: 236.4, 238.0. Weights of the slabs
// behind the stages in the second-level cache cost more than they gain: 245.4, with 12 MiB of them
// before x is waited for 244.6, with one slab of every block all the time 220.3.
constexpr int32_t kMinStagesBeside = 3;
// Llama-3-8B's shape on an H200, tokens/s with 1, 2 and 3, two runs each: 256, 257, 246 at 1 x 1k,
// 5,680, 5,888, 5,842 at 32 x 1k.
constexpr int32_t kWidePanels = 2;

// Equal tiles, as few a block as keep each within kWarps units.
void CutColumns(Op& op, int32_t num_columns, int32_t num_sms, int32_t max_units, int32_t cluster) {
  op.num_columns = num_columns;
  const int32_t units = CeilDiv(num_columns, kUnit);
  const int32_t units_each = CeilDiv(units, num_sms);
  const int32_t tiles_each = CeilDiv(units_each, max_units);
  op.tile_columns = CeilDiv(units_each, tiles_each) * kUnit;
  // Blocks of a cluster have equally many: the last may be past the columns.
  op.num_tiles = RoundUp(CeilDiv(num_columns, op.tile_columns), cluster);
  op.num_blocks = std::min(op.num_tiles, num_sms);
}

// The norm's part of an op.
void SetNorm(const RmsNormArgs& norm, Op& op) {
  op.defers = norm.scales != nullptr;
  op.out = norm.out;
  op.hidden_dim = norm.hidden_dim;
  op.eps = norm.eps;
  op.x = norm.x;
  op.residual = norm.residual_in;
  op.weight = norm.weight;
  op.made_scales = norm.scales;
}

Op MakeOp(const ChainOp& op, int32_t num_sms, int32_t max_units, int32_t cluster) {
  Op made = {};
  if (const auto* norm = std::get_if<RmsNormArgs>(&op)) {
    made.kind = Kind::kNorm;
    made.num_blocks = std::min(norm->num_rows, num_sms);
    SetNorm(*norm, made);
  } else if (const auto* gated = std::get_if<GatedMatMulArgs>(&op)) {
    made.kind = Kind::kGated;
    made.out = gated->out;
    CutColumns(made, static_cast<int32_t>(gated->weight.rows), num_sms, max_units, cluster);
  } else {
    const auto& product = std::get<MatMulArgs>(op);
    made.kind = Kind::kProduct;
    made.out = product.out;
    CutColumns(made, static_cast<int32_t>(product.weight.rows), num_sms, max_units, cluster);
  }
  return made;
}

int32_t PanelBytes(const Params& p, const Op& op) {
  return (p.stage_rows + op.tile_columns) * kPanelRowBytes;
}

int32_t Columns(const ChainOp& op) {  // K
  const auto* gated = std::get_if<GatedMatMulArgs>(&op);
  return static_cast<int32_t>(gated != nullptr ? gated->weight.cols
                                               : std::get<MatMulArgs>(op).weight.cols);
}

const void* InputOf(const ChainOp& op) {
  const auto* gated = std::get_if<GatedMatMulArgs>(&op);
  return gated != nullptr ? gated->x : std::get<MatMulArgs>(op).x;
}

const void* OutputOf(const ChainOp& op) {
  return std::visit([](const auto& args) -> const void* { return args.out; }, op);
}

const float* ScalesOf(const ChainOp& op) {
  if (const auto* gated = std::get_if<GatedMatMulArgs>(&op)) {
    return gated->row_scales;
  }
  const auto* product = std::get_if<MatMulArgs>(&op);
  return product != nullptr ? product->row_scales : nullptr;
}

// The norm whose scales `op` multiplies by, if it is one of the chain.
const RmsNormArgs* NormOf(std::span<const ChainOp> ops, const ChainOp& op) {
  const float* scales = ScalesOf(op);
  const RmsNormArgs* found = nullptr;
  for (const ChainOp& other : ops) {
    if (&other == &op) {
      return found;
    }
    const auto* norm = std::get_if<RmsNormArgs>(&other);
    if (norm != nullptr && scales != nullptr && norm->scales == scales) {
      found = norm;
    }
  }
  return nullptr;
}

// Whether `before`, which is made of the op before it, makes this norm: one that multiplies by its
// scales follows. A block has one tile then.
bool IsMadeBefore(std::span<const ChainOp> ops, size_t index, const Op& before, int32_t num_sms) {
  const auto* norm = std::get_if<RmsNormArgs>(&ops[index]);
  if (norm == nullptr || norm->scales == nullptr || index + 1 == ops.size() ||
      NormOf(ops, ops[index + 1]) != norm) {
    return false;
  }
  const auto* product = std::get_if<MatMulArgs>(&ops[index - 1]);
  return product != nullptr && product->out == norm->residual_in &&
         product->row_scales == nullptr && product->weight.rows == norm->hidden_dim &&
         before.num_tiles <= num_sms;
}

// What `op` reads first is ready before the last of what `before` makes, if that takes several
// tiles a block: the features of the first tiles come first.
void StartEarly(Op& before, int32_t grid, const void* x, Op& op) {
  if (before.kind == Kind::kGated && x == before.out && before.num_tiles > grid) {
    before.announces_first = true;
    op.early_panels = grid * (before.tile_columns / 2) / kPanelColumns;
  }
}

// The columns of the norms, if every block makes them by itself: then nobody waits for a block that
// makes them for all. They have one row and are all of one x; the op after each of them multiplies
// what it makes, and does not write what it may not have read yet in some block.
int32_t NormDimOfAll(std::span<const ChainOp> ops) {
  const RmsNormArgs* first = nullptr;
  for (size_t i = 0; i < ops.size(); ++i) {
    const auto* norm = std::get_if<RmsNormArgs>(&ops[i]);
    if (norm == nullptr) {
      continue;
    }
    first = first == nullptr ? norm : first;
    if (norm->scales != nullptr || norm->num_rows != 1 || norm->x != first->x ||
        norm->hidden_dim != first->hidden_dim || i + 1 == ops.size() ||
        std::holds_alternative<RmsNormArgs>(ops[i + 1]) || InputOf(ops[i + 1]) != norm->out ||
        OutputOf(ops[i + 1]) == norm->residual_in || Columns(ops[i + 1]) != norm->hidden_dim) {
      return 0;
    }
  }
  return first == nullptr ? 0 : first->hidden_dim;
}

// A stage holds so many panels of the widest tiles, and as many as fit of the others.
void CutStages(Launch& launch) {
  Params& p = launch.params;
  for (const Op& op : std::span(p.ops, static_cast<size_t>(p.num_ops))) {
    if (op.kind != Kind::kNorm) {
      p.stage_bytes = std::max(p.stage_bytes, kWidePanels * PanelBytes(p, op));
    }
  }
  for (int32_t i = 0; i < p.num_ops; ++i) {
    Op& op = p.ops[i];
    if (op.kind == Kind::kNorm) {
      op.num_blocks = p.norm_dim > 0 ? launch.grid : op.num_blocks;
      continue;
    }
    op.reads_norm = p.norm_dim > 0 && i > 0 && p.ops[i - 1].kind == Kind::kNorm;
    op.panels = std::min(p.stage_bytes / PanelBytes(p, op), kMaxPanels);
    op.num_panels = Columns(*launch.sources[i]) / kPanelColumns;
    if (i > 0) {
      StartEarly(p.ops[i - 1], launch.grid, InputOf(*launch.sources[i]), op);
    }
  }
}

// Which scales the op makes or multiplies by.
void SetScales(std::span<const ChainOp> ops, const ChainOp& source, Op& op) {
  if (op.kind == Kind::kNorm) {
    const bool is_read = std::any_of(ops.begin(), ops.end(), [&](const ChainOp& other) {
      return NormOf(ops, other) == std::get_if<RmsNormArgs>(&source);
    });
    op.scales = op.defers && !is_read ? Scales::kMake : Scales::kNone;
  } else if (const RmsNormArgs* norm = NormOf(ops, source); norm != nullptr) {
    op.scales = Scales::kSum;
    op.hidden_dim = norm->hidden_dim;
    op.eps = norm->eps;
    op.made_scales = norm->scales;
    op.row_scales = norm->scales;
  } else if (const float* scales = ScalesOf(source); scales != nullptr) {
    op.scales = Scales::kRead;
    op.row_scales = scales;
  }
}

// One op of the chain for each of `ops`, but for norms that the op before makes.
void MakeOps(std::span<const ChainOp> ops, int32_t num_sms, int32_t max_units, Launch& launch) {
  Params& p = launch.params;
  const int32_t cluster = ClusterOf(p.stage_rows);
  num_sms = num_sms / cluster * cluster;
  launch.grid = 1;
  for (size_t i = 0; i < ops.size(); ++i) {
    if (i > 0 && IsMadeBefore(ops, i, p.ops[p.num_ops - 1], num_sms)) {
      Op& before = p.ops[p.num_ops - 1];
      SetNorm(std::get<RmsNormArgs>(ops[i]), before);
      p.added_bytes = std::max(p.added_bytes, AddedBytes(p.num_rows, before.tile_columns));
      continue;
    }
    launch.sources[p.num_ops] = &ops[i];
    Op& op = p.ops[p.num_ops++];
    op = MakeOp(ops[i], num_sms, max_units, cluster);
    SetScales(ops, ops[i], op);
    launch.grid = RoundUp(std::max(launch.grid, op.num_blocks), cluster);
  }
}

int32_t NumStages(const Params& p, const ChainTuning& tuning) {
  if (p.stage_bytes == 0) {
    return 0;
  }
  const auto fitting = [&p](int32_t bytes) {
    return (bytes - kAlignment - NormBytes(p.norm_dim) - p.added_bytes) / p.stage_bytes;
  };
  const int32_t bytes = tuning.shared_bytes > 0 ? tuning.shared_bytes : kMultiprocessorBytes;
  const int32_t beside = fitting(std::min(bytes, kMultiprocessorBytes - tuning.room_bytes));
  return std::clamp(beside < kMinStagesBeside ? fitting(bytes) : beside, 2, kMaxStages);
}

}  // namespace

Launch PlanChain(std::span<const ChainOp> ops, int32_t num_sms, const ChainTuning& tuning) {
  Launch launch = {};
  Params& p = launch.params;
  p.num_rows = std::visit([](const auto& args) { return args.num_rows; }, ops.front());
  p.stage_rows = p.num_rows <= 8 ? 8 : p.num_rows <= 16 ? 16 : 32;
  MakeOps(ops, num_sms, tuning.max_units > 0 ? tuning.max_units : kWarps, launch);
  p.norm_dim = NormDimOfAll(ops);
  CutStages(launch);
  p.num_stages = NumStages(p, tuning);
  launch.shared_bytes =
      p.num_stages * p.stage_bytes + NormBytes(p.norm_dim) + p.added_bytes + kAlignment;
  return launch;
}

}  // namespace ringserve::cuda::chain
