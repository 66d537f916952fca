#include "kernels/attention_plan_parts_cuda.h"

#include <algorithm>
#include <cstddef>

namespace ringserve::cuda {
namespace {

// Keys and values of the items that run at the same time: half of a 50 MB L2.
constexpr int64_t kCacheBytes = int64_t{24} << 20;

}  // namespace

const char* CheckAttentionPlan(const TilePlan& plan, const KvLayout& layout) {
  if (plan.split_size % TileKeys(layout.head_dim) != 0) {
    return "split_size must be a multiple of the kernels' key tile (128, or 64 for head_dim 256)";
  }
  for (const TileSequence& sequence : plan.sequences) {
    for (int32_t e = 0; e < sequence.num_entries; ++e) {
      const BlockEntry* entry = &plan.entries[sequence.first_entry + e];
      if (entry->sink_angle_row >= 0) {
        if (e > 0 || sequence.num_entries == 1 || plan.window < kWideWindow) {
          return "sinks must be the first entry of a sequence with others and without a window";
        }
        continue;
      }
      if (entry->position % layout.block_size != 0) {
        return "entries must begin at multiples of block_size";
      }
      if (e == 0 || entry[-1].sink_angle_row >= 0) {
        continue;
      }
      if (entry[0].position != entry[-1].position + layout.block_size ||
          entry[-1].num_keys != layout.block_size) {
        return "all entries of a sequence but the last must be full and follow each other";
      }
    }
  }
  return nullptr;
}

// Items of one sequence and KV head read the same keys: they run together, as many such groups at a
// time as the L2 holds, and the longest items of those first.
void OrderPrefillItems(std::vector<PrefillGroupItem>& groups,
                       int64_t tile_bytes,
                       std::vector<AttentionItem>& ordered) {
  std::stable_sort(
      groups.begin(), groups.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  size_t batch_first = 0;
  int64_t batch_bytes = 0;
  const auto end_batch = [&] {
    std::stable_sort(
        ordered.begin() + static_cast<ptrdiff_t>(batch_first),
        ordered.end(),
        [](const AttentionItem& a, const AttentionItem& b) { return a.num_tiles > b.num_tiles; });
    batch_first = ordered.size();
    batch_bytes = 0;
  };
  for (size_t i = 0; i < groups.size();) {
    int64_t group_bytes = 0;
    const size_t first = i;
    for (; i < groups.size() && groups[i].first == groups[first].first; ++i) {
      group_bytes = std::max(group_bytes, groups[i].second.num_tiles * tile_bytes);
    }
    if (batch_bytes > 0 && batch_bytes + group_bytes > kCacheBytes) {
      end_batch();
    }
    batch_bytes += group_bytes;
    for (size_t j = first; j < i; ++j) {
      ordered.push_back(groups[j].second);
    }
  }
  end_batch();
}

}  // namespace ringserve::cuda
