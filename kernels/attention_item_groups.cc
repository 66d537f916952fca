// The groups of an attention item: which key lies in which lane, and which rows see it.
#include <algorithm>

#include "kernels/attention_item.h"
#include "kernels/rope.h"

namespace ringserve {
namespace {

// Lanes [first, end) of a group; either may lie outside it.
uint64_t LaneMask(int64_t first, int64_t end) {
  const auto below = [](int64_t lane) {
    return lane <= 0 ? 0 : lane >= kGroupKeys ? ~uint64_t{0} : (uint64_t{1} << lane) - 1;
  };
  return below(end) & ~below(first);
}

PlaneRows Rows(const GroupRows& rows, uint64_t present, int64_t offset, GroupRows& room) {
  if (present == ~uint64_t{0}) {
    return {.rows = rows, .offset = offset};
  }
  for (int32_t lane = 0; lane < kGroupKeys; ++lane) {
    room[lane] = (present >> lane & 1) != 0 ? rows[lane] + offset : kZeros;
  }
  return {.rows = room};
}

}  // namespace

// Enters the keys of a tile into their lanes. Lanes of sinks count the item's sinks, since their
// positions move with every token.
void AttentionItem::AddTile(const Tile& tile) {
  const BlockEntry& entry = plan_.entries[tile.entry];
  const bool sink = entry.sink_angle_row >= 0;
  const int64_t offset = int64_t{tile.first_key} * row_bytes_;
  const std::byte* key = args_.kv.Keys(entry.block, item_.kv_head) + offset;
  const std::byte* value = args_.kv.Values(entry.block, item_.kv_head) + offset;
  int64_t position = entry.position + tile.first_key;
  int64_t split = position / plan_.split_size;
  int64_t key_stride = args_.kv.layout.plane_bytes();
  if (sink) {
    position = num_sinks_;
    split = -1;
    key = sink_keys_ + num_sinks_ * row_bytes_;
    key_stride = all_sinks_ * row_bytes_;
    RotateSinks(entry, tile);
  }
  for (int32_t i = 0; i < tile.num_keys;) {
    const int64_t number = (position + i) / kGroupKeys;
    const Group& latest = groups_[(num_groups_ + 1) % 2];
    if (num_groups_ == 0 || latest.split != split || latest.number != number) {
      OpenGroup(split, number);
    }
    Group& group = groups_[(num_groups_ + 1) % 2];
    group.key_stride = key_stride;
    const auto lane = static_cast<int32_t>((position + i) % kGroupKeys);
    const int32_t end = lane + std::min(tile.num_keys - i, kGroupKeys - lane);
    group.present |= LaneMask(lane, end);
    group.dense = end - lane == kGroupKeys;
    if (group.dense) {
      group.first_key = key + int64_t{i} * row_bytes_;
      group.first_value = value + int64_t{i} * row_bytes_;
      i += kGroupKeys;
    } else {
      for (int32_t to = lane; to < end; ++to, ++i) {
        group.keys[to] = key + int64_t{i} * row_bytes_;
        group.values[to] = value + int64_t{i} * row_bytes_;
      }
    }
    group.masked = group.masked || tile.kind == TileKind::kTriangle;
  }
}

// The new group takes the place of the one before the latest, which is therefore attended to first.
void AttentionItem::OpenGroup(int64_t split, int64_t number) {
  Group& group = groups_[num_groups_ % 2];
  if (num_groups_ >= 2) {
    AttendGroup(group, groups_[(num_groups_ + 1) % 2]);
  }
  group.present = 0;
  group.dense = false;
  group.masked = false;
  group.number = number;
  group.split = split;
  ++num_groups_;
}

// Keys of a sink tile for every KV head, rounded to the type of the cache as if they had been
// stored so.
void AttentionItem::RotateSinks(const BlockEntry& entry, const Tile& tile) {
  for (int32_t head = item_.kv_head; head <= items_.back().kv_head; ++head) {
    const std::byte* keys = args_.kv.Keys(entry.block, head);
    std::byte* rotated =
        sink_keys_ + ((head - item_.kv_head) * all_sinks_ + num_sinks_) * row_bytes_;
    for (int32_t i = 0; i < tile.num_keys; ++i) {
      const int64_t key = tile.first_key + i;
      RotateStoredKey(keys + key * row_bytes_,
                      args_.angles + (entry.sink_angle_row + key) * head_dim_,
                      head_dim_,
                      args_.kv.layout.dtype,
                      rotated + int64_t{i} * row_bytes_);
    }
  }
  num_sinks_ += tile.num_keys;
}

// Where an item's first keys lie, good enough to fetch them: those of its first tile.
void AttentionItem::FirstGroup(const WorkItem& item, Group& group) const {
  group.present = ~uint64_t{0};
  group.key_stride = args_.kv.layout.plane_bytes();
  const Tile& tile = plan_.tiles[item.first_tile];
  const int32_t block = plan_.entries[tile.entry].block;
  const int64_t offset = int64_t{tile.first_key} * row_bytes_;
  group.dense = tile.num_keys >= kGroupKeys;
  group.first_key = args_.kv.Keys(block, item.kv_head) + offset;
  group.first_value = args_.kv.Values(block, item.kv_head) + offset;
  for (int32_t i = 0; !group.dense && i < kGroupKeys; ++i) {
    const int64_t row = int64_t{std::min(i, tile.num_keys - 1)} * row_bytes_;
    group.keys[i] = group.first_key + row;
    group.values[i] = group.first_value + row;
  }
}

// The rows of an item; `room` serves a group with lanes that are not present.
PlaneRows AttentionItem::Keys(const Group& group, int64_t item, GroupRows& room) const {
  const int64_t offset = (items_[item].kv_head - item_.kv_head) * group.key_stride;
  if (group.dense) {
    return {.first = group.first_key + offset, .row_bytes = row_bytes_};
  }
  return Rows(group.keys, group.present, offset, room);
}

PlaneRows AttentionItem::Values(const Group& group, int64_t item, GroupRows& room) const {
  const int64_t offset = (items_[item].kv_head - item_.kv_head) * args_.kv.layout.plane_bytes();
  if (group.dense) {
    return {.first = group.first_value + offset, .row_bytes = row_bytes_};
  }
  return Rows(group.values, group.present, offset, room);
}

void AttentionItem::FillVisible(const Group& group) {
  const int64_t first_position = group.number * kGroupKeys;
  for (int64_t row = 0; row < num_rows_; ++row) {
    visible_[row] = group.present;
    if (group.masked) {
      // The row sees the lanes before `end`, the last `window` of them; kNoWindow must not
      // overflow.
      const int64_t end = positions_[row] + 1 - first_position;
      visible_[row] &= LaneMask(plan_.window >= end ? 0 : end - plan_.window, end);
    }
  }
}

}  // namespace ringserve
