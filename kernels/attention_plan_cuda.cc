#include "kernels/attention_plan_cuda.h"

#include <algorithm>
#include <limits>
#include <tuple>

#include "kernels/attention_plan_parts_cuda.h"
#include "kernels/types.h"

namespace ringserve::cuda {
namespace {

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
        window_(plan.causal ? std::min(plan.window, kWideWindow) : kWideWindow),
        packed_(packed) {}

  const char* Pack();

 private:
  const char* AddWorkItem(const WorkItem& item);
  const BlockEntry& EntryOf(int32_t tile) const;
  int32_t FirstOrdinaryTile(const WorkItem& item) const;
  bool HoldsOneSplit(const WorkItem& item) const;
  void CutShared(const WorkItem& item);
  void CutDecode(const WorkItem& item, const RowRange& range, int32_t row_in_item);
  void CutMerge(const MergeItem& merge);
  int32_t FindMerge(const AttentionItem& item) const;
  void CutPrefill(const Rows& rows);
  void SetKeys(int64_t first, int64_t end, int32_t entry, AttentionItem& item) const;
  int64_t SetKeys(const Tile& first, const Tile& last, AttentionItem& item) const;
  void SetRows(int32_t sequence, int64_t base, AttentionItem& item) const;
  static void SetSinks(const BlockEntry& entry, AttentionItem& item);
  int64_t PositionOf(int32_t sequence, int32_t row) const;

  const TilePlan& plan_;
  const AttentionPlanShape& shape_;
  const int64_t tile_;
  const int64_t window_;
  PackedAttentionPlan& packed_;
  std::vector<Rows> rows_;
  std::vector<std::tuple<int32_t, int32_t, int32_t>> merges_;  // first row, first head, index
  std::vector<PrefillGroupItem> groups_;  // (sequence, KV head) of a prefill item
};

const char* Packer::Pack() {
  packed_.decode.clear();
  packed_.prefill.clear();
  packed_.general_decode.clear();
  packed_.general_prefill.clear();
  packed_.merges.clear();
  packed_.sources.clear();
  packed_.blocks.clear();
  packed_.rows.clear();
  packed_.merge_rows = 0;
  packed_.merge_sources = 0;
  packed_.prefill_heads = 0;
  packed_.num_partials = plan_.num_partials;
  packed_.window = static_cast<int32_t>(window_);
  packed_.tiles_per_split =
      static_cast<int32_t>(std::min(plan_.split_size, kWideWindow * tile_) / tile_);
  if (const char* error = CheckAttentionPlan(plan_, shape_.layout); error != nullptr) {
    return error;
  }
  if (plan_.num_partials > std::numeric_limits<int32_t>::max()) {
    return "more partial results than 32 bits can count";
  }
  packed_.has_sinks = false;
  for (const BlockEntry& entry : plan_.entries) {
    packed_.has_sinks = packed_.has_sinks || entry.sink_angle_row >= 0;
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
  OrderPrefillItems(groups_,
                    2 * tile_ * shape_.layout.head_dim * DTypeBytes(shape_.layout.dtype),
                    packed_.prefill);
  for (std::vector<AttentionItem>* items :
       {&packed_.decode, &packed_.general_decode, &packed_.general_prefill}) {
    std::stable_sort(
        items->begin(), items->end(), [](const AttentionItem& a, const AttentionItem& b) {
          return a.num_tiles > b.num_tiles;
        });
  }
  for (const int64_t source : plan_.merge_sources) {
    packed_.sources.push_back(static_cast<int32_t>(source));
  }
  return nullptr;
}

int64_t Packer::PositionOf(int32_t sequence, int32_t row) const {
  const TileSequence& rows = plan_.sequences[sequence];
  return rows.first_position + (row - rows.first_row);
}

const BlockEntry& Packer::EntryOf(int32_t tile) const {
  return plan_.entries[plan_.tiles[tile].entry];
}

// The item's first tile behind its sinks, or the end of its tiles.
int32_t Packer::FirstOrdinaryTile(const WorkItem& item) const {
  int32_t tile = item.first_tile;
  while (tile < item.first_tile + item.num_tiles && EntryOf(tile).sink_angle_row >= 0) {
    ++tile;
  }
  return tile;
}

// One beside that of its sinks.
bool Packer::HoldsOneSplit(const WorkItem& item) const {
  const int32_t ordinary = FirstOrdinaryTile(item);
  if (ordinary == item.first_tile + item.num_tiles) {
    return true;
  }
  const Tile& first = plan_.tiles[ordinary];
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
  if (decode && item.num_ranges > 1) {
    int32_t num_rows = 0;
    for (int32_t r = 0; r < item.num_ranges; ++r) {
      num_rows += plan_.row_ranges[item.first_range + r].num_rows;
    }
    // Fewer are as soon read again from the L2.
    if (num_rows * item.num_heads > kDecodeRows) {
      CutShared(item);
      return nullptr;
    }
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

void Packer::SetSinks(const BlockEntry& entry, AttentionItem& item) {
  item.num_sinks = entry.num_keys;
  item.sink_block = entry.block;
  item.sink_angle_row = entry.sink_angle_row;
}

// Rows of several sequences (or, of sinks alone, of several query tiles) that all see all keys of
// one split, in prefill items: these bring a key tile to many rows at once.
void Packer::CutShared(const WorkItem& item) {
  const int32_t ordinary = FirstOrdinaryTile(item);
  const int32_t end_tile = item.first_tile + item.num_tiles;
  const auto first_listed = static_cast<int32_t>(packed_.rows.size());
  int64_t base = 0;
  if (ordinary < end_tile) {
    const int64_t first = plan_.tiles[ordinary].first_key + EntryOf(ordinary).position;
    base = first - first % tile_;
  }
  for (int32_t r = 0; r < item.num_ranges; ++r) {
    const RowRange& range = plan_.row_ranges[item.first_range + r];
    for (int32_t row = range.first_row; row < range.first_row + range.num_rows; ++row) {
      packed_.rows.push_back({row, static_cast<int32_t>(PositionOf(range.sequence, row) - base)});
    }
  }
  const auto num_rows = static_cast<int32_t>(packed_.rows.size()) - first_listed;
  const int32_t heads = std::min(item.num_heads, kPrefillRows);
  const int32_t rows = kPrefillRows / heads;
  for (int32_t row = 0; row < num_rows; row += rows) {
    for (int32_t head = 0; head < item.num_heads; head += heads) {
      AttentionItem cut = {};
      cut.num_rows = std::min(rows, num_rows - row);
      cut.first_listed = first_listed + row;
      cut.first_head = item.first_head + head;
      cut.num_heads = std::min(heads, item.num_heads - head);
      cut.kv_head = item.kv_head;
      cut.merge = -1;
      cut.first_partial = -1;
      if (item.first_partial >= 0) {
        cut.first_partial =
            static_cast<int32_t>(item.first_partial + int64_t{row} * item.num_heads + head);
        cut.partial_stride = item.num_heads;
      }
      if (ordinary > item.first_tile) {
        SetSinks(EntryOf(item.first_tile), cut);
      }
      if (ordinary < end_tile) {
        SetKeys(plan_.tiles[ordinary], plan_.tiles[end_tile - 1], cut);
        cut.dense_begin = static_cast<int32_t>(CeilDiv<int64_t>(cut.key_begin, tile_));
        cut.dense_end = static_cast<int32_t>(cut.key_end / tile_);
      }
      packed_.general_prefill.push_back(cut);
    }
  }
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

// The keys of a run of tiles, all of which the item brings; returns its base.
int64_t Packer::SetKeys(const Tile& first, const Tile& last, AttentionItem& item) const {
  const int64_t key_first = plan_.entries[first.entry].position + first.first_key;
  const int64_t key_end = plan_.entries[last.entry].position + last.first_key + last.num_keys;
  SetKeys(key_first, key_end, first.entry, item);
  item.num_tiles = static_cast<int32_t>(CeilDiv<int64_t>(item.key_end, tile_));
  return key_first - key_first % tile_;
}

// After SetKeys: rows of a sequence. Where these see every key they stand, as far as masks go,
// behind the last one.
void Packer::SetRows(int32_t sequence, int64_t base, AttentionItem& item) const {
  const int64_t text_position = PositionOf(sequence, item.first_row) - base;
  const int64_t position = plan_.causal ? text_position : item.key_end - 1;
  const int64_t last = position + item.num_rows - 1;
  item.row_position = static_cast<int32_t>(position);
  item.text_position = static_cast<int32_t>(text_position);
  const int64_t old_keys = plan_.causal ? plan_.sequences[sequence].first_position - base : 0;
  item.old_keys = static_cast<int32_t>(std::max<int64_t>(old_keys, 0));
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
  const int32_t ordinary = FirstOrdinaryTile(item);
  const int32_t end_tile = item.first_tile + item.num_tiles;
  const bool has_sinks = ordinary > item.first_tile;
  std::vector<AttentionItem>& items = has_sinks ? packed_.general_decode : packed_.decode;
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
      cut.first_listed = -1;
      cut.merge = -1;
      if (item.first_partial >= 0) {
        cut.merge = FindMerge(cut);
        cut.first_partial = static_cast<int32_t>(
            item.first_partial + int64_t{row_in_item + row} * item.num_heads + head);
        cut.partial_stride = item.num_heads;
      }
      if (has_sinks) {
        SetSinks(EntryOf(item.first_tile), cut);
      }
      if (ordinary < end_tile) {
        const int64_t base = SetKeys(plan_.tiles[ordinary], plan_.tiles[end_tile - 1], cut);
        const int32_t num_tiles = cut.num_tiles;
        SetRows(range.sequence, base, cut);
        cut.num_tiles = num_tiles;
      }
      items.push_back(cut);
    }
  }
}

void Packer::CutPrefill(const Rows& rows) {
  const TileSequence& sequence = plan_.sequences[rows.sequence];
  const BlockEntry& sinks = plan_.entries[sequence.first_entry];
  const bool has_sinks = sinks.sink_angle_row >= 0;
  const int32_t first_entry = sequence.first_entry + (has_sinks ? 1 : 0);
  const int64_t block_size = shape_.layout.block_size;
  const int64_t keys_first = plan_.entries[first_entry].position;
  const BlockEntry& last_entry = plan_.entries[sequence.first_entry + sequence.num_entries - 1];
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
      cut.first_listed = -1;
      cut.merge = -1;
      const int64_t first =
          plan_.causal ? std::max(keys_first, position - window_ + 1) : keys_first;
      const int64_t base = first - first % tile_;
      // Whole tiles are loaded as far as keys are written, so that only a sequence's last tile
      // needs clearing.
      const int64_t end = plan_.causal
                              ? std::min(keys_end, RoundUp(position + room - base, tile_) + base)
                              : keys_end;
      const auto entry = static_cast<int32_t>(first_entry + (first - keys_first) / block_size);
      SetKeys(first, end, entry, cut);
      SetRows(rows.sequence, base, cut);
      if (has_sinks) {
        SetSinks(sinks, cut);
        packed_.general_prefill.push_back(cut);
        continue;
      }
      groups_.emplace_back(int64_t{rows.sequence} * shape_.num_heads + rows.kv_head, cut);
    }
    row += static_cast<int32_t>(room);
  }
}

}  // namespace

const char* PackAttentionPlan(const TilePlan& plan,
                              const AttentionPlanShape& shape,
                              PackedAttentionPlan& packed) {
  return Packer(plan, shape, packed).Pack();
}

}  // namespace ringserve::cuda
