#include "kernels/attention.h"

#include <cmath>

namespace ringserve {
namespace {

bool Is32Or16(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBf16;
}

bool HasSinks(const TilePlan& plan) {
  for (const BlockEntry& entry : plan.entries) {
    if (entry.sink_angle_row >= 0) {
      return true;
    }
  }
  return false;
}

}  // namespace

const char* CheckAttentionArgs(const AttentionArgs& args) {
  const KvLayout& layout = args.kv.layout;
  if (args.plan == nullptr || args.q == nullptr || args.out == nullptr || args.kv.pool == nullptr) {
    return "plan, q, kv.pool and out must not be null";
  }
  if (layout.head_dim < 8 || layout.head_dim > 256 || layout.head_dim % 8 != 0) {
    return "head_dim must be a multiple of 8 in [8, 256]";
  }
  if (layout.block_size < 1 || layout.num_layers < 1 || layout.num_kv_heads < 1) {
    return "block_size, num_layers and num_kv_heads must be positive";
  }
  if (args.kv.layer < 0 || args.kv.layer >= layout.num_layers) {
    return "kv.layer must be in [0, num_layers)";
  }
  if (args.num_heads < 1 || args.num_heads % layout.num_kv_heads != 0) {
    return "num_heads must be a positive multiple of num_kv_heads";
  }
  const int64_t row_size = int64_t{args.num_heads} * layout.head_dim;
  if (args.q_stride < row_size || args.out_stride < row_size) {
    return "q_stride and out_stride must be at least num_heads * head_dim";
  }
  if (!Is32Or16(layout.dtype) || !Is32Or16(args.q_dtype) || !Is32Or16(args.out_dtype)) {
    return "the types of q, out and kv must be f32 or bf16";
  }
  if (!(args.scale > 0) || !std::isfinite(args.scale)) {
    return "scale must be positive and finite";
  }
  if (!(args.softcap >= 0) || !std::isfinite(args.softcap)) {
    return "softcap must be positive and finite, or 0";
  }
  if (args.position_bias != nullptr && (args.bias_reach < 0 || HasSinks(*args.plan))) {
    return "position_bias needs a bias_reach of at least 0 and a plan without sinks";
  }
  if (args.plan->split_size < 1 || args.plan->window < 1) {
    return "plan.split_size and plan.window must be positive";
  }
  if (args.plan->num_partials > 0 && args.workspace == nullptr) {
    return "workspace must not be null if the plan has partial results";
  }
  if (args.angles == nullptr && HasSinks(*args.plan)) {
    return "angles must not be null if the plan has sinks";
  }
  return nullptr;
}

}  // namespace ringserve
