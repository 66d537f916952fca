#include "kernels/attention_item.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/attention_partial.h"

namespace ringserve {
namespace {

constexpr float kLog2E = 1.4426950408889634F;

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

// Adds the upper half to the lower until one is left; counts are constants, so that this is
// vectors.
float Total(const float* sum) {
  static_assert(kSumLanes == 16);
  float total[8];
  for (int i = 0; i < 8; ++i) {
    total[i] = sum[i] + sum[i + 8];
  }
  for (int i = 0; i < 4; ++i) {
    total[i] += total[i + 4];
  }
  return (total[0] + total[2]) + (total[1] + total[3]);
}

}  // namespace

int64_t ItemsAbreast(const AttentionArgs& args,
                     const AttentionKernel& kernel,
                     std::span<const WorkItem> items,
                     int64_t max_items) {
  const WorkItem& first = items.front();
  int64_t num_rows = 0;
  for (int32_t r = 0; r < first.num_ranges; ++r) {
    num_rows += int64_t{args.plan->row_ranges[first.first_range + r].num_rows} * first.num_heads;
  }
  const auto alike = [&first](const WorkItem& item) {
    return item.first_range == first.first_range && item.num_ranges == first.num_ranges &&
           item.first_tile == first.first_tile && item.num_tiles == first.num_tiles &&
           item.num_heads == first.num_heads && item.kv_head >= first.kv_head;
  };
  const int64_t most =
      num_rows > kernel.max_few ? 1 : std::min<int64_t>(max_items, std::ssize(items));
  int64_t count = 1;
  while (count < most && alike(items[count])) {
    ++count;
  }
  return count;
}

AttentionItem::AttentionItem(const AttentionArgs& args,
                             const AttentionKernel& kernel,
                             std::span<const WorkItem> items,
                             const WorkItem* following,
                             AttentionScratch& scratch)
    : args_(args),
      plan_(*args.plan),
      kernel_(kernel),
      items_(items),
      item_(items.front()),
      following_(following),
      head_dim_(args.kv.layout.head_dim),
      padded_dim_(RoundUp(head_dim_, kDimUnit)),
      row_bytes_(head_dim_ * DTypeBytes(args.kv.layout.dtype)) {
  for (int32_t r = 0; r < item_.num_ranges; ++r) {
    num_rows_ += int64_t{plan_.row_ranges[item_.first_range + r].num_rows} * item_.num_heads;
  }
  all_rows_ = num_rows_ * std::ssize(items);
  for (int32_t t = 0; t < item_.num_tiles; ++t) {
    const Tile& tile = plan_.tiles[item_.first_tile + t];
    all_sinks_ += plan_.entries[tile.entry].sink_angle_row >= 0 ? tile.num_keys : 0;
  }
  const int64_t num_kv_heads = items.back().kv_head - item_.kv_head + 1;
  positions_ = scratch.positions.Get<int64_t>(all_rows_);
  bias_rows_ = scratch.bias_rows.Get<int32_t>(all_rows_);
  q_ = scratch.q.Get<std::byte>(all_rows_ * head_dim_ * DTypeBytes(kernel.q_dtype));
  keys_ = scratch.keys.Get<std::byte>(int64_t{kGroupKeys} * padded_dim_ * 4);
  values_ = scratch.values.Get<std::byte>(int64_t{kGroupKeys} * padded_dim_ * 4);
  sink_keys_ = scratch.sink_keys.Get<std::byte>(num_kv_heads * all_sinks_ * row_bytes_);
  visible_ = scratch.visible.Get<uint64_t>(num_rows_);
  records_ = scratch.records.Get<float>(all_rows_ * (kRecordHead + head_dim_));
  max_ = scratch.max.Get<float>(all_rows_);
  sum_ = scratch.sum.Get<float>(all_rows_ * kSumLanes);
  acc_ = scratch.acc.Get<float>(all_rows_ * padded_dim_);
  const int64_t few_rows = num_rows_ <= kernel.max_few ? all_rows_ : 0;
  probabilities_ = scratch.probabilities.Get<float>(few_rows * kGroupKeys);
  correction_ = scratch.correction.Get<float>(few_rows);
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
  for (const WorkItem& item : items_) {
    for (int32_t r = 0; r < item.num_ranges; ++r) {
      const RowRange& range = plan_.row_ranges[item.first_range + r];
      const TileSequence& sequence = plan_.sequences[range.sequence];
      for (int64_t row = range.first_row; row < range.first_row + range.num_rows; ++row) {
        for (int32_t h = 0; h < item.num_heads; ++h, ++to) {
          bias_rows_[to] = item.first_head + h;
          positions_[to] = sequence.first_position + (row - sequence.first_row);
          const int64_t offset = row * args_.q_stride + int64_t{item.first_head + h} * head_dim_;
          CopyQuery(static_cast<const std::byte*>(args_.q) + offset * element,
                    args_.q_dtype,
                    kernel_.q_dtype,
                    head_dim_,
                    q_ + to * head_dim_ * DTypeBytes(kernel_.q_dtype));
        }
      }
    }
  }
}

void AttentionItem::StartSplit() {
  std::fill_n(max_, all_rows_, kNoKeys);
  std::fill_n(sum_, all_rows_ * kSumLanes, 0.0F);
  std::fill_n(acc_, all_rows_ * padded_dim_, 0.0F);
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
  for (int64_t row = 0; row < all_rows_; ++row) {
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

void AttentionItem::AttendGroup(const Group& group, const Group& next) {
  if (group.split != split_) {
    EndSplit();
    StartSplit();
    split_ = group.split;
  }
  rule_.first_position = group.number * kGroupKeys;
  if (group.masked || group.present != ~uint64_t{0}) {
    FillVisible(group);
  }
  if (num_rows_ <= kernel_.max_few && !group.masked) {
    AttendFew(group, next);
  } else {
    AttendPacked(group, next);
  }
}

// What the kernel needs of an item's rows, but for where keys and values lie.
AttendArgs AttentionItem::ArgsOf(const Group& group, int64_t item) const {
  const int64_t row = item * num_rows_;
  const bool rule = args_.softcap > 0 || args_.position_bias != nullptr;
  return {.q = q_ + row * head_dim_ * DTypeBytes(kernel_.q_dtype),
          .packed_keys = keys_,
          .packed_values = values_,
          .key_rows = {},
          .value_rows = {},
          .next = {},
          .next_values = {},
          .visible = group.masked || group.present != ~uint64_t{0} ? visible_ : nullptr,
          .num_rows = static_cast<int32_t>(num_rows_),
          .head_dim = head_dim_,
          .dtype = args_.kv.layout.dtype,
          .scale = rule ? 1.0F : args_.scale * kLog2E,
          .rule = rule ? &rule_ : nullptr,
          .rule_row = static_cast<int32_t>(row),
          .max = max_ + row,
          .sum = sum_ + row * kSumLanes,
          .acc = acc_ + row * padded_dim_,
          .probabilities = probabilities_ + row * kGroupKeys,
          .correction = correction_ + row};
}

// To the rows of the item that comes so many later.
void AttentionItem::Advance(AttendArgs& attend, int64_t num_items) const {
  const int64_t num_rows = num_items * num_rows_;
  attend.q =
      static_cast<const std::byte*>(attend.q) + num_rows * head_dim_ * DTypeBytes(kernel_.q_dtype);
  attend.rule_row += static_cast<int32_t>(num_rows);
  attend.max += num_rows;
  attend.sum += num_rows * kSumLanes;
  attend.acc += num_rows * padded_dim_;
  attend.probabilities += num_rows * kGroupKeys;
  attend.correction += num_rows;
}

// The keys of all items, then the values of all: what the others' come from lies next to it.
void AttentionItem::AttendFew(const Group& group, const Group& next) {
  const auto num_items = std::ssize(items_);
  // What is next becomes what is attended to, so that each is looked up once.
  GroupRows rooms[2];
  AttendArgs attend = ArgsOf(group, 0);
  attend.next = Keys(group, 0, rooms[0]);
  for (int64_t item = 0; item < num_items; ++item) {
    attend.key_rows = attend.next;
    GroupRows& room = rooms[(item + 1) % 2];
    attend.next = item + 1 < num_items ? Keys(group, item + 1, room) : Values(group, 0, room);
    kernel_.score_few(attend);
    Advance(attend, 1);
  }
  Advance(attend, -num_items);
  for (int64_t item = 0; item < num_items; ++item) {
    attend.value_rows = attend.next;
    GroupRows& room = rooms[(num_items + item + 1) % 2];
    attend.next = item + 1 < num_items ? Values(group, item + 1, room) : Keys(next, 0, room);
    kernel_.accumulate_few(attend);
    Advance(attend, 1);
  }
}

void AttentionItem::AttendPacked(const Group& group, const Group& next) {
  GroupRows key_room;
  GroupRows value_room;
  GroupRows next_key_room;
  GroupRows next_value_room;
  for (int64_t item = 0; item < std::ssize(items_); ++item) {
    AttendArgs attend = ArgsOf(group, item);
    attend.key_rows = Keys(group, item, key_room);
    attend.value_rows = Values(group, item, value_room);
    attend.next = Keys(next, item, next_key_room);
    attend.next_values = Values(next, item, next_value_room);
    kernel_.pack_keys(attend.key_rows, attend.dtype, head_dim_, keys_);
    if (group.masked && !ValuesFinite(attend.value_rows)) {
      AttendOneByOne(attend.value_rows, attend);
    } else {
      kernel_.pack_values(attend.value_rows, attend.dtype, head_dim_, values_);
      kernel_.attend(attend);
    }
  }
}

bool AttentionItem::ValuesFinite(const PlaneRows& values) const {
  bool finite = true;
  for (int32_t lane = 0; lane < kGroupKeys; ++lane) {
    for (int32_t i = 0; i < head_dim_; ++i) {
      const float value = args_.kv.layout.dtype == DType::kF32
                              ? reinterpret_cast<const float*>(values[lane])[i]
                              : ToFloat(reinterpret_cast<const Bf16*>(values[lane])[i]);
      finite = finite && std::abs(value) <= std::numeric_limits<float>::max();
    }
  }
  return finite;
}

// A value that is not finite makes NaN of a probability of zero, so every row gets the group with
// the values that it does not see left out.
void AttentionItem::AttendOneByOne(const PlaneRows& values, AttendArgs attend) {
  const int64_t q_row_bytes = int64_t{head_dim_} * DTypeBytes(kernel_.q_dtype);
  attend.num_rows = 1;
  for (int64_t row = 0; row < num_rows_; ++row) {
    GroupRows seen;
    for (int32_t lane = 0; lane < kGroupKeys; ++lane) {
      seen[lane] = (visible_[row] >> lane & 1) != 0 ? values[lane] : kZeros;
    }
    kernel_.pack_values({.rows = seen}, attend.dtype, head_dim_, values_);
    attend.visible = visible_ + row;
    kernel_.attend(attend);
    attend.q = static_cast<const std::byte*>(attend.q) + q_row_bytes;
    attend.rule_row += 1;
    attend.max += 1;
    attend.sum += kSumLanes;
    attend.acc += padded_dim_;
  }
}

void AttentionItem::Finish() {
  const int64_t record_size = kRecordHead + head_dim_;
  if (num_folded_ > 0) {
    EndSplit();
  }
  int64_t from = 0;
  for (const WorkItem& item : items_) {
    const int64_t item_row = from;
    for (int32_t r = 0; r < item.num_ranges; ++r) {
      const RowRange& range = plan_.row_ranges[item.first_range + r];
      for (int64_t row = range.first_row; row < range.first_row + range.num_rows; ++row) {
        for (int32_t h = 0; h < item.num_heads; ++h, ++from) {
          float latest[kRecordHead + 256];
          float* partial =
              item.first_partial < 0
                  ? nullptr
                  : args_.workspace + (item.first_partial + (from - item_row)) * record_size;
          const float* record = records_ + from * record_size;
          if (num_folded_ == 0) {
            float* made = partial != nullptr ? partial : latest;
            MakeRecord(from, made);
            record = made;
          }
          if (partial == nullptr) {
            WriteRow(args_, row, item.first_head + h, record);
          } else if (record != partial) {
            std::copy_n(record, record_size, partial);
          }
        }
      }
    }
  }
}

}  // namespace ringserve
