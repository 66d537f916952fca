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
// Of an SM's 228 KiB, and of weights to have in the second-level cache before x is waited for, all
// blocks together. Llama-3-8B's shape at 1 x 1k on an H200: 236.1 tokens/s, with 226 KiB and 16 MiB
// 233.7. What some blocks fetch for the next op takes bandwidth from those that end this one.
constexpr int32_t kSharedBytes = 192 * 1024;
constexpr int32_t kAheadBytes = 4 << 20;
// A stage costs its producers and consumers some 400 clocks, whatever it holds.
constexpr int32_t kWidePanels = 2;

// Equal tiles, as few a block as keep each within kWarps units.
void CutColumns(Op& op, int32_t num_columns, int32_t num_sms, int32_t max_units) {
  op.num_columns = num_columns;
  const int32_t units = CeilDiv(num_columns, kUnit);
  const int32_t units_each = CeilDiv(units, num_sms);
  const int32_t tiles_each = CeilDiv(units_each, max_units);
  op.tile_columns = CeilDiv(units_each, tiles_each) * kUnit;
  op.num_tiles = CeilDiv(num_columns, op.tile_columns);
  op.num_blocks = std::min(op.num_tiles, num_sms);
}

Op MakeOp(const ChainOp& op, int32_t num_sms, int32_t max_units) {
  Op made = {};
  if (const auto* norm = std::get_if<RmsNormArgs>(&op)) {
    made.kind = Kind::kNorm;
    made.num_blocks = std::min(norm->num_rows, num_sms);
    made.out = norm->out;
    made.hidden_dim = norm->hidden_dim;
    made.eps = norm->eps;
    made.x = norm->x;
    made.residual = norm->residual_in;
    made.weight = norm->weight;
  } else if (const auto* gated = std::get_if<GatedMatMulArgs>(&op)) {
    made.kind = Kind::kGated;
    made.out = gated->out;
    CutColumns(made, static_cast<int32_t>(gated->weight.rows), num_sms, max_units);
  } else {
    const auto& product = std::get<MatMulArgs>(op);
    made.kind = Kind::kProduct;
    made.out = product.out;
    CutColumns(made, static_cast<int32_t>(product.weight.rows), num_sms, max_units);
  }
  return made;
}

int32_t PanelBytes(const Op& op) {
  return (kStageRows + op.tile_columns) * kPanelRowBytes;
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

// What `op` reads first is ready before the last of what `before` makes, if that takes several
// tiles a block: the features of the first tiles come first.
void StartEarly(Op& before, int32_t grid, const void* x, Op& op) {
  if (before.kind == Kind::kGated && x == before.out && before.num_tiles > grid) {
    before.announces_first = true;
    op.early_panels = grid * (before.tile_columns / 2) / kPanelColumns;
  }
}

}  // namespace

Launch PlanChain(std::span<const ChainOp> ops, int32_t num_sms, const ChainTuning& tuning) {
  Launch launch = {};
  Params& p = launch.params;
  p.num_ops = static_cast<int32_t>(ops.size());
  p.num_rows = std::visit([](const auto& args) { return args.num_rows; }, ops.front());
  const int32_t max_units = tuning.max_units > 0 ? tuning.max_units : kWarps;
  launch.grid = 1;
  for (int32_t i = 0; i < p.num_ops; ++i) {
    p.ops[i] = MakeOp(ops[static_cast<size_t>(i)], num_sms, max_units);
    launch.grid = std::max(launch.grid, p.ops[i].num_blocks);
    if (p.ops[i].kind != Kind::kNorm) {
      p.stage_bytes = std::max(p.stage_bytes, kWidePanels * PanelBytes(p.ops[i]));
    }
  }
  // A stage holds so many panels of the widest tiles, and as many as fit of the others.
  for (int32_t i = 0; i < p.num_ops; ++i) {
    Op& op = p.ops[i];
    if (op.kind != Kind::kNorm) {
      op.panels = std::min(p.stage_bytes / PanelBytes(op), kMaxPanels);
      op.num_panels = Columns(ops[static_cast<size_t>(i)]) / kPanelColumns;
      if (i > 0) {
        StartEarly(p.ops[i - 1], launch.grid, InputOf(ops[static_cast<size_t>(i)]), op);
      }
    }
  }
  const int32_t budget = tuning.shared_bytes > 0 ? tuning.shared_bytes : kSharedBytes;
  if (p.stage_bytes > 0) {
    p.num_stages = std::clamp((budget - kAlignment) / p.stage_bytes, 2, kMaxStages);
  }
  launch.shared_bytes = p.num_stages * p.stage_bytes + kAlignment;
  p.ahead_bytes = (tuning.ahead_bytes > 0 ? tuning.ahead_bytes : kAheadBytes) / launch.grid;
  return launch;
}

}  // namespace ringserve::cuda::chain
