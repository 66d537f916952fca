// Steps of packing a TilePlan (attention_plan_cuda.h) that stand alone. Host side.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/attention_plan_cuda.h"
#include "kernels/kv_view.h"
#include "kernels/tile_plan.h"

namespace ringserve::cuda {

// Windows beyond this see every key a 32-bit coordinate can name.
inline constexpr int64_t kWideWindow = int64_t{1} << 30;

// Null, or a static sentence that names what of the plan the kernels cannot run.
[[nodiscard]] const char* CheckAttentionPlan(const TilePlan& plan, const KvLayout& layout);

// An item and the keys it reads: its sequence and KV head.
using PrefillGroupItem = std::pair<int64_t, AttentionItem>;

// Appends the items in the order in which they should run; sorts `groups`. tile_bytes: of the keys
// and values of one tile.
void OrderPrefillItems(std::vector<PrefillGroupItem>& groups,
                       int64_t tile_bytes,
                       std::vector<AttentionItem>& ordered);

}  // namespace ringserve::cuda
