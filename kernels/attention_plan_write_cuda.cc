#include <algorithm>
#include <cstring>

#include "kernels/attention_plan_cuda.h"
#include "kernels/types.h"

namespace ringserve::cuda {
namespace {

constexpr int64_t kSectionBytes = 64;

template <typename T>
int64_t SectionBytes(const std::vector<T>& values) {
  return RoundUp<int64_t>(static_cast<int64_t>(values.size() * sizeof(T)), kSectionBytes);
}

bool HasDecodeAlone(const PackedAttentionPlan& packed) {
  return packed.prefill.empty() && packed.general_decode.empty() && packed.general_prefill.empty();
}

bool EndsWithOwnKey(const AttentionItem& item) {
  return item.old_keys == item.key_end - 1 && item.row_position == item.key_end - 1;
}

int32_t RowTiles(const PackedAttentionPlan& packed) {
  if (!HasDecodeAlone(packed) || !packed.merges.empty()) {
    return 0;
  }
  int32_t tiles = 0;
  for (const AttentionItem& item : packed.decode) {
    if (item.first_row != 0 || item.num_rows != 1 || item.first_partial >= 0 ||
        !EndsWithOwnKey(item)) {
      return 0;
    }
    tiles = std::max(tiles, item.num_tiles);
  }
  return tiles <= kMaxRowTiles ? tiles : 0;
}

int32_t OwnKeys(const PackedAttentionPlan& packed) {
  if (!HasDecodeAlone(packed)) {
    return 0;
  }
  int32_t keys = 0;
  for (const AttentionItem& item : packed.decode) {
    if (item.num_rows != 1) {
      return 0;
    }
    keys += EndsWithOwnKey(item) ? 1 : 0;
  }
  return keys;
}

}  // namespace

int64_t PackedBytes(const PackedAttentionPlan& packed) {
  return SectionBytes(packed.decode) + SectionBytes(packed.prefill) +
         SectionBytes(packed.general_decode) + SectionBytes(packed.general_prefill) +
         SectionBytes(packed.merges) + SectionBytes(packed.sources) + SectionBytes(packed.blocks) +
         SectionBytes(packed.rows);
}

AttentionPlanView WritePlan(const PackedAttentionPlan& packed,
                            std::byte* to,
                            const std::byte* device) {
  int64_t offset = 0;
  const auto write = [&]<typename T>(const std::vector<T>& values) {
    if (!values.empty()) {
      std::memcpy(to + offset, values.data(), values.size() * sizeof(T));
    }
    const auto* at = reinterpret_cast<const T*>(device + offset);
    offset += SectionBytes(values);
    return at;
  };
  AttentionPlanView view;
  view.decode = write(packed.decode);
  view.prefill = write(packed.prefill);
  view.general_decode = write(packed.general_decode);
  view.general_prefill = write(packed.general_prefill);
  view.merges = write(packed.merges);
  view.sources = write(packed.sources);
  view.blocks = write(packed.blocks);
  view.rows = write(packed.rows);
  view.num_decode = static_cast<int32_t>(packed.decode.size());
  view.num_prefill = static_cast<int32_t>(packed.prefill.size());
  view.num_general_decode = static_cast<int32_t>(packed.general_decode.size());
  view.num_general_prefill = static_cast<int32_t>(packed.general_prefill.size());
  view.num_merges = static_cast<int32_t>(packed.merges.size());
  view.merge_rows = packed.merge_rows;
  view.merge_sources = packed.merge_sources;
  view.prefill_heads = packed.prefill_heads;
  view.tiles_per_split = packed.tiles_per_split;
  view.window = packed.window;
  view.has_sinks = packed.has_sinks;
  view.num_partials = packed.num_partials;
  view.row_tiles = RowTiles(packed);
  view.own_keys = OwnKeys(packed);
  return view;
}

}  // namespace ringserve::cuda
