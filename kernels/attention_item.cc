#include "kernels/attention_item.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/attention_partial.h"
#include "kernels/rope.h"

namespace ringserve {
namespace {

constexpr float kLog2E = 1.4426950408889634F;

// What lanes without a key read: a row of the longest.
alignas(64) constexpr std::byte kZeros[256 * sizeof(float)] = {};

// Lanes [first, end) of a group; either may lie outside it.
uint64_t LaneMask(int64_t first, int64_t end) {
  const auto below = [](int64_t lane) {
    return lane <= 0 ? 0 : lane >= kGroupKeys ? ~uint64_t{0} : (uint64_t{1} << lane) - 1;
  };
  return below(end) & ~below(first);
}

void CopyQuery(const void* from, DType from_dtype, DType to_dtype, int32_t count, std::byte* to) {
  if (from_dtype == to_dtype) {
    std::memcpy(to, from, static_cast<size_t>(count) * DTypeBytes(to_dtype));
    return;
  }
  // Kernels of bf16 products take bf16 queries only, so this widens.
  for (int32_t i = 0; i < count; ++i) {
    reinterpret_cast<float*>(to)[i] = ToFloat(static_cast<const Bf16*>(from)[i]);
  }
}

float Total(const float* sum) {
  float total[kSumLanes];
  std::copy_n(sum, kSumLanes, total);
  for (int32_t width = kSumLanes / 2; width > 0; width /= 2) {
    for (int32_t i = 0; i < width; ++i) {
      total[i] += total[i + width];
    }
  }
  return total[0];
}

}  // namespace

AttentionItem::AttentionItem(const AttentionArgs& args,
                             const AttentionKernel& kernel,
                             const WorkItem& item,
                             const WorkItem* following,
                             AttentionScratch& scratch)
    : args_(args),
      plan_(*args.plan),
      kernel_(kernel),
      item_(item),
      following_(following),
      head_dim_(args.kv.layout.head_dim),
      padded_dim_(RoundUp(head_dim_, kDimUnit)),
      row_bytes_(head_dim_ * DTypeBytes(args.kv.layout.dtype)) {
  for (int32_t r = 0; r < item.num_ranges; ++r) {
    num_rows_ += int64_t{plan_.row_ranges[item.first_range + r].num_rows} * item.num_heads;
  }
  int64_t num_sinks = 0;
  for (int32_t t = 0; t < item.num_tiles; ++t) {
    const Tile& tile = plan_.tiles[item.first_tile + t];
    num_sinks += plan_.entries[tile.entry].sink_angle_row >= 0 ? tile.num_keys : 0;
  }
  positions_ = scratch.positions.Get<int64_t>(num_rows_);
  bias_rows_ = scratch.bias_rows.Get<int32_t>(num_rows_);
  q_ = scratch.q.Get<std::byte>(num_rows_ * head_dim_ * DTypeBytes(kernel.q_dtype));
  keys_ = scratch.keys.Get<std::byte>(int64_t{kGroupKeys} * padded_dim_ * 4);
  values_ = scratch.values.Get<std::byte>(int64_t{kGroupKeys} * padded_dim_ * 4);
  sink_keys_ = scratch.sink_keys.Get<std::byte>(num_sinks * row_bytes_);
  visible_ = scratch.visible.Get<uint64_t>(num_rows_);
  records_ = scratch.records.Get<float>(num_rows_ * (kRecordHead + head_dim_));
  max_ = scratch.max.Get<float>(num_rows_);
  sum_ = scratch.sum.Get<float>(num_rows_ * kSumLanes);
  acc_ = scratch.acc.Get<float>(num_rows_ * padded_dim_);
}

void AttentionItem::Run() {
  GatherRows();
  rule_ = {.scale = args_.scale,
           .softcap = args_.softcap,
           .bias = args_.position_bias,
           .bias_rows = bias_rows_,
           .positions = positions_,
           .reach = args_.bias_reach};
  for (int32_t t = 0; t < item_.num_tiles; ++t) {
    AddTile(plan_.tiles[item_.first_tile + t]);
  }
  Group& last = groups_[(num_groups_ + 1) % 2];
  Group& free = groups_[num_groups_ % 2];
  if (num_groups_ >= 2) {
    AttendGroup(free, last);
  }
  if (following_ != nullptr) {
    FirstGroup(*following_, free);
  }
  AttendGroup(last, following_ != nullptr ? free : last);
  Finish();
}

void AttentionItem::GatherRows() {
  const int64_t element = DTypeBytes(args_.q_dtype);
  int64_t to = 0;
  for (int32_t r = 0; r < item_.num_ranges; ++r) {
    const RowRange& range = plan_.row_ranges[item_.first_range + r];
    const TileSequence& sequence = plan_.sequences[range.sequence];
    for (int64_t row = range.first_row; row < range.first_row + range.num_rows; ++row) {
      for (int32_t h = 0; h < item_.num_heads; ++h, ++to) {
        bias_rows_[to] = item_.first_head + h;
        positions_[to] = sequence.first_position + (row - sequence.first_row);
        const int64_t offset = row * args_.q_stride + int64_t{item_.first_head + h} * head_dim_;
        CopyQuery(static_cast<const std::byte*>(args_.q) + offset * element,
                  args_.q_dtype,
                  kernel_.q_dtype,
                  head_dim_,
                  q_ + to * head_dim_ * DTypeBytes(kernel_.q_dtype));
      }
    }
  }
}

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
  if (sink) {
    position = num_sinks_;
    split = -1;
    key = RotateSinks(entry, tile);
  }
  for (int32_t i = 0; i < tile.num_keys;) {
    const int64_t number = (position + i) / kGroupKeys;
    const Group& latest = groups_[(num_groups_ + 1) % 2];
    if (num_groups_ == 0 || latest.split != split || latest.number != number) {
      OpenGroup(split, number);
    }
    Group& group = groups_[(num_groups_ + 1) % 2];
    const auto lane = static_cast<int32_t>((position + i) % kGroupKeys);
    const int32_t end = lane + std::min(tile.num_keys - i, kGroupKeys - lane);
    for (int32_t to = lane; to < end; ++to, ++i) {
      group.keys[to] = key + int64_t{i} * row_bytes_;
      group.values[to] = value + int64_t{i} * row_bytes_;
    }
    group.present |= LaneMask(lane, end);
    group.masked = group.masked || tile.kind == TileKind::kTriangle;
  }
}

// The new group takes the place of the one before the latest, which is therefore attended to first.
void AttentionItem::OpenGroup(int64_t split, int64_t number) {
  Group& group = groups_[num_groups_ % 2];
  if (num_groups_ >= 2) {
    AttendGroup(group, groups_[(num_groups_ + 1) % 2]);
  }
  Clear(group);
  group.number = number;
  group.split = split;
  ++num_groups_;
}

// Rotated keys of a sink tile, rounded to the type of the cache as if they had been stored so.
const std::byte* AttentionItem::RotateSinks(const BlockEntry& entry, const Tile& tile) {
  std::byte* rotated = sink_keys_ + int64_t{num_sinks_} * row_bytes_;
  const std::byte* keys = args_.kv.Keys(entry.block, item_.kv_head);
  for (int32_t i = 0; i < tile.num_keys; ++i) {
    const int64_t key = tile.first_key + i;
    RotateStoredKey(keys + key * row_bytes_,
                    args_.angles + (entry.sink_angle_row + key) * head_dim_,
                    head_dim_,
                    args_.kv.layout.dtype,
                    rotated + int64_t{i} * row_bytes_);
  }
  num_sinks_ += tile.num_keys;
  return rotated;
}

void AttentionItem::StartSplit() {
  std::fill_n(max_, num_rows_, kNoKeys);
  std::fill_n(sum_, num_rows_ * kSumLanes, 0.0F);
  std::fill_n(acc_, num_rows_ * padded_dim_, 0.0F);
}

void AttentionItem::MakeRecord(int64_t row, float* record) const {
  record[0] = Total(sum_ + row * kSumLanes);
  record[1] = max_[row];
  kernel_.natural_order(acc_ + row * padded_dim_, head_dim_, record + kRecordHead);
}

void AttentionItem::EndSplit() {
  if (split_ == kNoSplit) {
    return;
  }
  for (int64_t row = 0; row < num_rows_; ++row) {
    float record[kRecordHead + 256];
    MakeRecord(row, record);
    float* folded = records_ + row * (kRecordHead + head_dim_);
    if (num_folded_ == 0) {
      std::copy_n(record, kRecordHead + head_dim_, folded);
    } else {
      FoldRecord(record, head_dim_, folded);
    }
  }
  ++num_folded_;
}

void AttentionItem::Clear(Group& group) const {
  std::fill_n(group.keys, kGroupKeys, kZeros);
  std::fill_n(group.values, kGroupKeys, kZeros);
  group.present = 0;
  group.masked = false;
}

// Where an item's first keys lie, good enough to fetch them: those of its first tile.
void AttentionItem::FirstGroup(const WorkItem& item, Group& group) const {
  Clear(group);
  const Tile& tile = plan_.tiles[item.first_tile];
  const int32_t block = plan_.entries[tile.entry].block;
  const int64_t offset = int64_t{tile.first_key} * row_bytes_;
  for (int32_t i = 0; i < std::min(tile.num_keys, kGroupKeys); ++i) {
    group.keys[i] = args_.kv.Keys(block, item.kv_head) + offset + int64_t{i} * row_bytes_;
    group.values[i] = args_.kv.Values(block, item.kv_head) + offset + int64_t{i} * row_bytes_;
  }
}

void AttentionItem::AttendGroup(const Group& group, const Group& next) {
  if (group.split != split_) {
    EndSplit();
    StartSplit();
    split_ = group.split;
  }
  const DType dtype = args_.kv.layout.dtype;
  AttendArgs attend = {.q = q_,
                       .packed_keys = keys_,
                       .packed_values = values_,
                       .key_rows = &group.keys,
                       .value_rows = &group.values,
                       .next_key_rows = &next.keys,
                       .next_value_rows = &next.values,
                       .num_rows = static_cast<int32_t>(num_rows_),
                       .head_dim = head_dim_,
                       .dtype = dtype,
                       .scale = args_.scale * kLog2E,
                       .max = max_,
                       .sum = sum_,
                       .acc = acc_};
  if (args_.softcap > 0 || args_.position_bias != nullptr) {
    rule_.first_position = group.number * kGroupKeys;
    attend.rule = &rule_;
    attend.scale = 1.0F;
  }
  if (group.masked || group.present != ~uint64_t{0}) {
    FillVisible(group);
    attend.visible = visible_;
  }
  if (group.masked && !ValuesFinite(group)) {
    kernel_.pack_keys(group.keys, dtype, head_dim_, keys_);
    AttendOneByOne(group, attend);
  } else if (num_rows_ <= kernel_.max_few) {
    kernel_.attend_few(attend);
  } else {
    kernel_.pack_keys(group.keys, dtype, head_dim_, keys_);
    kernel_.pack_values(group.values, dtype, head_dim_, values_);
    kernel_.attend(attend);
  }
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

bool AttentionItem::ValuesFinite(const Group& group) const {
  bool finite = true;
  for (const std::byte* row : group.values) {
    for (int32_t i = 0; i < head_dim_; ++i) {
      const float value = args_.kv.layout.dtype == DType::kF32
                              ? reinterpret_cast<const float*>(row)[i]
                              : ToFloat(reinterpret_cast<const Bf16*>(row)[i]);
      finite = finite && std::abs(value) <= std::numeric_limits<float>::max();
    }
  }
  return finite;
}

// A value that is not finite makes NaN of a probability of zero, so every row gets the group with
// the values that it does not see left out.
void AttentionItem::AttendOneByOne(const Group& group, AttendArgs attend) {
  const int64_t q_row_bytes = int64_t{head_dim_} * DTypeBytes(kernel_.q_dtype);
  attend.num_rows = 1;
  for (int64_t row = 0; row < num_rows_; ++row) {
    GroupRows values;
    for (int32_t lane = 0; lane < kGroupKeys; ++lane) {
      values[lane] = (visible_[row] >> lane & 1) != 0 ? group.values[lane] : kZeros;
    }
    kernel_.pack_values(values, args_.kv.layout.dtype, head_dim_, values_);
    attend.q = q_ + row * q_row_bytes;
    attend.visible = visible_ + row;
    attend.rule_row = static_cast<int32_t>(row);
    attend.max = max_ + row;
    attend.sum = sum_ + row * kSumLanes;
    attend.acc = acc_ + row * padded_dim_;
    kernel_.attend(attend);
  }
}

void AttentionItem::Finish() {
  const int64_t record_size = kRecordHead + head_dim_;
  if (num_folded_ > 0) {
    EndSplit();
  }
  int64_t from = 0;
  for (int32_t r = 0; r < item_.num_ranges; ++r) {
    const RowRange& range = plan_.row_ranges[item_.first_range + r];
    for (int64_t row = range.first_row; row < range.first_row + range.num_rows; ++row) {
      for (int32_t h = 0; h < item_.num_heads; ++h, ++from) {
        float latest[kRecordHead + 256];
        const float* record = records_ + from * record_size;
        if (num_folded_ == 0) {
          MakeRecord(from, latest);
          record = latest;
        }
        if (item_.first_partial >= 0) {
          std::copy_n(
              record, record_size, args_.workspace + (item_.first_partial + from) * record_size);
        } else {
          WriteRow(args_, row, item_.first_head + h, record);
        }
      }
    }
  }
}

}  // namespace ringserve
