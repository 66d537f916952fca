#include "kernels/attention_plan_cuda.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <tuple>

#include "kernels/types.h"

namespace ringserve::cuda {
namespace {

// Windows beyond this see every key a 32-bit coordinate can name.
constexpr int64_t kWideWindow = int64_t{1} << 30;
// Keys and values of the items that run at the same time: half of a 50 MB L2.
constexpr int64_t kCacheBytes = int64_t{24} << 20;

// Rows of one sequence under one head tile, before they are cut to the size of an item.
struct Rows {
  int32_t sequence = 0;
  int32_t kv_head = 0;
  int32_t first_head = 0;
  int32_t num_heads = 0;
  int32_t first_row = 0;
  int32_t num_rows = 0;

  auto Key() const { return std::tuple(sequence, first_head, first_row); }
};

class Packer {
 public:
  Packer(const TilePlan& plan, const AttentionPlanShape& shape, PackedAttentionPlan& packed)
      : plan_(plan),
        shape_(shape),
        tile_(TileKeys(shape.layout.head_dim)),
        window_(std::min(plan.window, kWideWindow)),
        packed_(packed) {}

  const char* Pack();

 private:
  const char* CheckPlan() const;
  const char* AddWorkItem(const WorkItem& item);
  bool HoldsOneSplit(const WorkItem& item) const;
  void CutDecode(const WorkItem& item, const RowRange& range, int32_t row_in_item);
  void CutMerge(const MergeItem& merge);
  int32_t FindMerge(const AttentionItem& item) const;
  void CutPrefill(const Rows& rows);
  void OrderPrefill();
  void SetKeys(int64_t first, int64_t end, int32_t entry, AttentionItem& item) const;
  void SetRows(int64_t position, AttentionItem& item) const;
  int64_t PositionOf(int32_t sequence, int32_t row) const;

  const TilePlan& plan_;
  const AttentionPlanShape& shape_;
  const int64_t tile_;
  const int64_t window_;
  PackedAttentionPlan& packed_;
  std::vector<Rows> rows_;
  std::vector<std::tuple<int32_t, int32_t, int32_t>> merges_;  // first row, first head, index
  std::vector<std::pair<int64_t, AttentionItem>> groups_;  // (sequence, KV head) of a prefill item
};

const char* Packer::CheckPlan() const {
  if (plan_.split_size % tile_ != 0) {
    return "split_size must be a multiple of the kernels' key tile (128, or 64 for head_dim 256)";
  }
  for (const BlockEntry& entry : plan_.entries) {
    if (entry.sink_angle_row >= 0) {
      return "sinks are not supported by the CUDA kernels yet";
    }
    if (entry.position % shape_.layout.block_size != 0) {
      return "entries must begin at multiples of block_size";
    }
  }
  for (const TileSequence& sequence : plan_.sequences) {
    for (int32_t e = 1; e < sequence.num_entries; ++e) {
      const BlockEntry* entry = &plan_.entries[sequence.first_entry + e];
      if (entry[0].position != entry[-1].position + shape_.layout.block_size ||
          entry[-1].num_keys != shape_.layout.block_size) {
        return "all entries of a sequence but the last must be full and follow each other";
      }
    }
  }
  return nullptr;
}

const char* Packer::Pack() {
  packed_.decode.clear();
  packed_.prefill.clear();
  packed_.merges.clear();
  packed_.sources.clear();
  packed_.blocks.clear();
  packed_.merge_rows = 0;
  packed_.merge_sources = 0;
  packed_.prefill_heads = 0;
  packed_.num_partials = plan_.num_partials;
  packed_.window = static_cast<int32_t>(window_);
  packed_.tiles_per_split =
      static_cast<int32_t>(std::min(plan_.split_size, kWideWindow * tile_) / tile_);
  if (const char* error = CheckPlan(); error != nullptr) {
    return error;
  }
  if (plan_.num_partials > std::numeric_limits<int32_t>::max()) {
    return "more partial results than 32 bits can count";
  }
  for (const BlockEntry& entry : plan_.entries) {
    packed_.blocks.push_back(entry.block);
  }
  for (const MergeItem& merge : plan_.merges) {
    CutMerge(merge);
  }
  std::sort(merges_.begin(), merges_.end());
  for (const WorkItem& item : plan_.items) {
    if (const char* error = AddWorkItem(item); error != nullptr) {
      return error;
    }
  }
  std::sort(
      rows_.begin(), rows_.end(), [](const Rows& a, const Rows& b) { return a.Key() < b.Key(); });
  for (const Rows& rows : rows_) {
    packed_.prefill_heads = std::max(packed_.prefill_heads, std::min(rows.num_heads, kPrefillRows));
  }
  for (size_t i = 0; i < rows_.size();) {
    Rows joined = rows_[i++];
    for (; i < rows_.size() && rows_[i].sequence == joined.sequence &&
           rows_[i].first_head == joined.first_head && rows_[i].num_heads == joined.num_heads &&
           rows_[i].first_row == joined.first_row + joined.num_rows;
         ++i) {
      joined.num_rows += rows_[i].num_rows;
    }
    CutPrefill(joined);
  }
  OrderPrefill();
  std::stable_sort(
      packed_.decode.begin(),
      packed_.decode.end(),
      [](const AttentionItem& a, const AttentionItem& b) { return a.num_tiles > b.num_tiles; });
  for (const int64_t source : plan_.merge_sources) {
    packed_.sources.push_back(static_cast<int32_t>(source));
  }
  return nullptr;
}

int64_t Packer::PositionOf(int32_t sequence, int32_t row) const {
  const TileSequence& rows = plan_.sequences[sequence];
  return rows.first_position + (row - rows.first_row);
}

bool Packer::HoldsOneSplit(const WorkItem& item) const {
  const Tile& first = plan_.tiles[item.first_tile];
  const Tile& last = plan_.tiles[item.first_tile + item.num_tiles - 1];
  return (plan_.entries[first.entry].position + first.first_key) / plan_.split_size ==
         (plan_.entries[last.entry].position + last.first_key) / plan_.split_size;
}

const char* Packer::AddWorkItem(const WorkItem& item) {
  const bool decode =
      item.first_partial >= 0 || (item.order == TileOrder::kKMajor && HoldsOneSplit(item));
  if (item.first_partial >= 0 && !HoldsOneSplit(item)) {
    return "an item with partial results holds several splits";
  }
  int32_t row_in_item = 0;
  for (int32_t r = 0; r < item.num_ranges; ++r) {
    const RowRange& range = plan_.row_ranges[item.first_range + r];
    if (decode) {
      CutDecode(item, range, row_in_item);
    } else {
      rows_.push_back({.sequence = range.sequence,
                       .kv_head = item.kv_head,
                       .first_head = item.first_head,
                       .num_heads = item.num_heads,
                       .first_row = range.first_row,
                       .num_rows = range.num_rows});
    }
    row_in_item += range.num_rows;
  }
  return nullptr;
}

// Keys at positions [first, end) may be read; `entry` is the one that holds `first`.
void Packer::SetKeys(int64_t first, int64_t end, int32_t entry, AttentionItem& item) const {
  const int64_t base = first - first % tile_;
  const int64_t block_size = shape_.layout.block_size;
  item.first_block = static_cast<int32_t>(entry - (first / block_size - base / block_size));
  item.key_begin = static_cast<int32_t>(first - base);
  item.key_end = static_cast<int32_t>(end - base);
  const int64_t split = std::min(plan_.split_size, kWideWindow * tile_);
  item.tiles_to_split = static_cast<int32_t>((split - base % split) / tile_);
  item.base_in_block = static_cast<int32_t>(base % block_size);
}

// After SetKeys; `position` of the first row, counted from the base.
void Packer::SetRows(int64_t position, AttentionItem& item) const {
  const int64_t last = position + item.num_rows - 1;
  item.row_position = static_cast<int32_t>(position);
  const int64_t seen_end = std::min<int64_t>(item.key_end, last + 1);
  item.num_tiles = static_cast<int32_t>(CeilDiv(seen_end, tile_));
  const int64_t dense_first = std::max<int64_t>({item.key_begin, last - window_ + 1, 0});
  item.dense_begin = static_cast<int32_t>(CeilDiv(dense_first, tile_));
  item.dense_end = static_cast<int32_t>(std::min<int64_t>(item.key_end, position + 1) / tile_);
}

// As CutDecode cuts the items that it folds.
void Packer::CutMerge(const MergeItem& merge) {
  const int32_t heads = std::min(merge.num_heads, kDecodeRows);
  const int32_t rows = std::max(kDecodeRows / merge.num_heads, 1);
  for (int32_t row = 0; row < merge.num_rows; row += rows) {
    for (int32_t head = 0; head < merge.num_heads; head += heads) {
      const AttentionMerge cut = {.first_row = merge.first_row + row,
                                  .num_rows = std::min(rows, merge.num_rows - row),
                                  .first_head = merge.first_head + head,
                                  .num_heads = std::min(heads, merge.num_heads - head),
                                  .first_source = merge.first_source,
                                  .num_sources = merge.num_sources,
                                  .source_offset = row * merge.num_heads + head,
                                  .partial_stride = merge.num_heads};
      merges_.emplace_back(
          cut.first_row, cut.first_head, static_cast<int32_t>(packed_.merges.size()));
      packed_.merges.push_back(cut);
      packed_.merge_rows = std::max(packed_.merge_rows, cut.num_rows * cut.num_heads);
      packed_.merge_sources = std::max(packed_.merge_sources, cut.num_sources);
    }
  }
}

int32_t Packer::FindMerge(const AttentionItem& item) const {
  const auto found = std::lower_bound(
      merges_.begin(), merges_.end(), std::tuple(item.first_row, item.first_head, 0));
  return found == merges_.end() ? -1 : std::get<2>(*found);
}

void Packer::CutDecode(const WorkItem& item, const RowRange& range, int32_t row_in_item) {
  const Tile& first = plan_.tiles[item.first_tile];
  const Tile& last = plan_.tiles[item.first_tile + item.num_tiles - 1];
  const int64_t key_first = plan_.entries[first.entry].position + first.first_key;
  const int64_t key_end = plan_.entries[last.entry].position + last.first_key + last.num_keys;
  const int32_t heads = std::min(item.num_heads, kDecodeRows);
  const int32_t rows = std::max(kDecodeRows / item.num_heads, 1);
  for (int32_t row = 0; row < range.num_rows; row += rows) {
    for (int32_t head = 0; head < item.num_heads; head += heads) {
      AttentionItem cut = {};
      cut.first_row = range.first_row + row;
      cut.num_rows = std::min(rows, range.num_rows - row);
      cut.first_head = item.first_head + head;
      cut.num_heads = std::min(heads, item.num_heads - head);
      cut.kv_head = item.kv_head;
      cut.first_partial = -1;
      cut.merge = -1;
      if (item.first_partial >= 0) {
        cut.merge = FindMerge(cut);
        cut.first_partial = static_cast<int32_t>(
            item.first_partial + int64_t{row_in_item + row} * item.num_heads + head);
        cut.partial_stride = item.num_heads;
      }
      SetKeys(key_first, key_end, first.entry, cut);
      const int64_t base = key_first - key_first % tile_;
      SetRows(PositionOf(range.sequence, cut.first_row) - base, cut);
      cut.num_tiles = static_cast<int32_t>(CeilDiv<int64_t>(cut.key_end, tile_));
      packed_.decode.push_back(cut);
    }
  }
}

void Packer::CutPrefill(const Rows& rows) {
  const TileSequence& sequence = plan_.sequences[rows.sequence];
  const BlockEntry* entries = &plan_.entries[sequence.first_entry];
  const int64_t block_size = shape_.layout.block_size;
  const int64_t keys_first = entries[0].position;
  const BlockEntry& last_entry = entries[sequence.num_entries - 1];
  const int64_t keys_end = last_entry.position + last_entry.num_keys;
  // All items have the shape of the largest: one tensor box brings any item's queries.
  const int32_t heads = packed_.prefill_heads;
  const int64_t most = kPrefillRows / heads;
  for (int32_t row = 0; row < rows.num_rows;) {
    const int64_t position = PositionOf(rows.sequence, rows.first_row + row);
    const int64_t room = std::min<int64_t>(most - position % most, rows.num_rows - row);
    for (int32_t head = 0; head < rows.num_heads; head += heads) {
      AttentionItem cut = {};
      cut.first_row = rows.first_row + row;
      cut.num_rows = static_cast<int32_t>(room);
      cut.first_head = rows.first_head + head;
      cut.num_heads = std::min(heads, rows.num_heads - head);
      cut.kv_head = rows.kv_head;
      cut.first_partial = -1;
      cut.merge = -1;
      const int64_t first = std::max(keys_first, position - window_ + 1);
      const int64_t base = first - first % tile_;
      // Whole tiles are loaded as far as keys are written, so that only a sequence's last tile
      // needs clearing.
      const int64_t end = std::min(keys_end, RoundUp(position + room - base, tile_) + base);
      const auto entry =
          static_cast<int32_t>(sequence.first_entry + (first - keys_first) / block_size);
      SetKeys(first, end, entry, cut);
      SetRows(position - base, cut);
      groups_.emplace_back(int64_t{rows.sequence} * shape_.num_heads + rows.kv_head, cut);
    }
    row += static_cast<int32_t>(room);
  }
}

// Items of one sequence and KV head read the same keys: they run together, as many such groups at a
// time as the L2 holds, and the longest items of those first.
void Packer::OrderPrefill() {
  std::stable_sort(groups_.begin(), groups_.end(), [](const auto& a, const auto& b) {
    return a.first < b.first;
  });
  const int64_t tile_bytes = 2 * tile_ * shape_.layout.head_dim * DTypeBytes(shape_.layout.dtype);
  size_t batch_first = 0;
  int64_t batch_bytes = 0;
  const auto end_batch = [&] {
    std::stable_sort(
        packed_.prefill.begin() + static_cast<ptrdiff_t>(batch_first),
        packed_.prefill.end(),
        [](const AttentionItem& a, const AttentionItem& b) { return a.num_tiles > b.num_tiles; });
    batch_first = packed_.prefill.size();
    batch_bytes = 0;
  };
  for (size_t i = 0; i < groups_.size();) {
    int64_t group_bytes = 0;
    const size_t first = i;
    for (; i < groups_.size() && groups_[i].first == groups_[first].first; ++i) {
      group_bytes = std::max(group_bytes, groups_[i].second.num_tiles * tile_bytes);
    }
    if (batch_bytes > 0 && batch_bytes + group_bytes > kCacheBytes) {
      end_batch();
    }
    batch_bytes += group_bytes;
    for (size_t j = first; j < i; ++j) {
      packed_.prefill.push_back(groups_[j].second);
    }
  }
  end_batch();
}

constexpr int64_t kSectionBytes = 64;

template <typename T>
int64_t SectionBytes(const std::vector<T>& values) {
  return RoundUp<int64_t>(static_cast<int64_t>(values.size() * sizeof(T)), kSectionBytes);
}

}  // namespace

const char* PackAttentionPlan(const TilePlan& plan,
                              const AttentionPlanShape& shape,
                              PackedAttentionPlan& packed) {
  return Packer(plan, shape, packed).Pack();
}

int64_t PackedBytes(const PackedAttentionPlan& packed) {
  return SectionBytes(packed.decode) + SectionBytes(packed.prefill) + SectionBytes(packed.merges) +
         SectionBytes(packed.sources) + SectionBytes(packed.blocks);
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
  view.merges = write(packed.merges);
  view.sources = write(packed.sources);
  view.blocks = write(packed.blocks);
  view.num_decode = static_cast<int32_t>(packed.decode.size());
  view.num_prefill = static_cast<int32_t>(packed.prefill.size());
  view.num_merges = static_cast<int32_t>(packed.merges.size());
  view.merge_rows = packed.merge_rows;
  view.merge_sources = packed.merge_sources;
  view.prefill_heads = packed.prefill_heads;
  view.tiles_per_split = packed.tiles_per_split;
  view.window = packed.window;
  view.num_partials = packed.num_partials;
  return view;
}

}  // namespace ringserve::cuda
