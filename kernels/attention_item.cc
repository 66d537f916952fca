#include "kernels/attention_item.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/attention_partial.h"
#include "kernels/rope.h"

namespace ringserve {
namespace {

constexpr float kLog2E = 1.4426950408889634F;

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
                             AttentionScratch& scratch)
    : args_(args),
      plan_(*args.plan),
      kernel_(kernel),
      item_(item),
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
  for (int32_t t = 0; t < item_.num_tiles; ++t) {
    AddTile(plan_.tiles[item_.first_tile + t]);
  }
  FlushGroup();
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
  for (int32_t i = 0; i < tile.num_keys; ++i, ++position) {
    if (split != split_ || position / kGroupKeys != group_) {
      FlushGroup();
      if (split != split_) {
        EndSplit();
        StartSplit();
        split_ = split;
      }
      group_ = position / kGroupKeys;
    }
    const int64_t lane = position % kGroupKeys;
    key_rows_[lane] = key + int64_t{i} * row_bytes_;
    value_rows_[lane] = value + int64_t{i} * row_bytes_;
    present_ |= uint64_t{1} << lane;
    masked_ = masked_ || tile.kind == TileKind::kTriangle;
  }
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
  std::copy_n(acc_ + row * padded_dim_, head_dim_, record + kRecordHead);
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

void AttentionItem::FlushGroup() {
  if (present_ == 0) {
    return;
  }
  const DType dtype = args_.kv.layout.dtype;
  AttendArgs attend = {.q = q_,
                       .keys = keys_,
                       .values = values_,
                       .num_rows = static_cast<int32_t>(num_rows_),
                       .head_dim = head_dim_,
                       .scale = args_.scale * kLog2E,
                       .max = max_,
                       .sum = sum_,
                       .acc = acc_};
  if (masked_ || present_ != ~uint64_t{0}) {
    FillVisible();
    attend.visible = visible_;
  }
  kernel_.pack_keys(key_rows_, dtype, head_dim_, keys_);
  if (masked_ && !ValuesFinite()) {
    AttendOneByOne(attend);
  } else {
    kernel_.pack_values(value_rows_, dtype, head_dim_, values_);
    kernel_.attend(attend);
  }
  std::fill_n(key_rows_, kGroupKeys, nullptr);
  std::fill_n(value_rows_, kGroupKeys, nullptr);
  present_ = 0;
  masked_ = false;
}

void AttentionItem::FillVisible() {
  const int64_t first_position = group_ * kGroupKeys;
  for (int64_t row = 0; row < num_rows_; ++row) {
    const int64_t position = positions_[row];
    visible_[row] = !masked_ ? present_
                             : present_ & LaneMask(position - plan_.window + 1 - first_position,
                                                   position + 1 - first_position);
  }
}

bool AttentionItem::ValuesFinite() const {
  bool finite = true;
  for (const std::byte* row : value_rows_) {
    for (int32_t i = 0; row != nullptr && i < head_dim_; ++i) {
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
void AttentionItem::AttendOneByOne(AttendArgs attend) {
  const int64_t q_row_bytes = int64_t{head_dim_} * DTypeBytes(kernel_.q_dtype);
  attend.num_rows = 1;
  for (int64_t row = 0; row < num_rows_; ++row) {
    GroupRows values = {};
    for (int32_t lane = 0; lane < kGroupKeys; ++lane) {
      if ((visible_[row] >> lane & 1) != 0) {
        values[lane] = value_rows_[lane];
      }
    }
    kernel_.pack_values(values, args_.kv.layout.dtype, head_dim_, values_);
    attend.q = q_ + row * q_row_bytes;
    attend.visible = visible_ + row;
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
        const float* record = records_ + from * record_size;
        if (item_.first_partial >= 0) {
          float* to = args_.workspace + (item_.first_partial + from) * record_size;
          if (num_folded_ > 0) {
            std::copy_n(record, record_size, to);
          } else {
            MakeRecord(from, to);
          }
        } else if (num_folded_ > 0) {
          WriteRow(args_, row, item_.first_head + h, record[0], record + kRecordHead);
        } else {
          WriteRow(args_,
                   row,
                   item_.first_head + h,
                   Total(sum_ + from * kSumLanes),
                   acc_ + from * padded_dim_);
        }
      }
    }
  }
}

}  // namespace ringserve
