// One WorkItem on one thread, or several abreast that differ in their heads alone. Their rows'
// queries are copied together; the keys of their tiles are gathered in groups of 64 lanes and
// packed once for all rows of an item (attention_kernel.h); splits are folded as they end. Internal
// to the attention family.
//
// Abreast, items take each group in turn: first the keys of all, then the values of all. In a block
// the planes of all KV heads lie side by side; plain loads reach 0.95 of sequential reading in such
// runs and 0.58 to 0.71 in single planes of 8 and 16 KiB (AMD EPYC, Zen 5, 2 threads).
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <span>

#include "kernels/attention.h"
#include "kernels/attention_kernel.h"
#include "kernels/attention_score.h"

namespace ringserve {

// What lanes without a key read: a row of the longest.
alignas(64) inline constexpr std::byte kZeros[256 * sizeof(float)] = {};

// 64-byte aligned memory that only grows, so that a steady state allocates nothing.
class GrowingBuffer {
 public:
  template <typename T>
  T* Get(int64_t count) {
    const auto bytes = RoundUp<size_t>(static_cast<size_t>(count) * sizeof(T), 64);
    if (bytes > size_) {
      data_.reset();  // first, so that both are never held at once
      data_.reset(static_cast<std::byte*>(operator new[](bytes, std::align_val_t{64})));
      size_ = bytes;
    }
    return reinterpret_cast<T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(std::byte* data) const { operator delete[](data, std::align_val_t{64}); }
  };

  std::unique_ptr<std::byte[], Free> data_;
  size_t size_ = 0;
};

// What items need beside the arguments; one for each thread.
struct AttentionScratch {
  GrowingBuffer positions, bias_rows, q, keys, values, sink_keys, visible, max, sum, acc, records,
      probabilities, correction;
};

// How many of `items` can run abreast from the first one on: neighbours over the same tiles with
// few rows each, at most max_items.
int64_t ItemsAbreast(const AttentionArgs& args,
                     const AttentionKernel& kernel,
                     std::span<const WorkItem> items,
                     int64_t max_items);

class AttentionItem {
 public:
  // `items` as ItemsAbreast() counts them, at least one. `following` is the item that this thread
  // will probably run next, or null: its first keys are fetched while these end.
  AttentionItem(const AttentionArgs& args,
                const AttentionKernel& kernel,
                std::span<const WorkItem> items,
                const WorkItem* following,
                AttentionScratch& scratch);

  // Writes the items' output or partial results.
  void Run();

 private:
  // 64 lanes of keys, as the first item sees them. Those of an item whose KV head is h heads
  // further lie h strides further on; lanes that are not present have nothing.
  struct Group {
    GroupRows keys;  // unless they are dense
    GroupRows values;
    const std::byte* first_key = nullptr;  // if they are
    const std::byte* first_value = nullptr;
    int64_t key_stride = 0;
    uint64_t present = 0;  // lanes that have a key
    bool masked = false;   // some row may not see some lane
    bool dense = false;    // the rows of all lanes follow each other
    int64_t number = 0;    // position / 64
    int64_t split = 0;
  };

  void GatherRows();
  void AddTile(const Tile& tile);
  void RotateSinks(const BlockEntry& entry, const Tile& tile);
  void OpenGroup(int64_t split, int64_t number);
  void StartSplit();
  void EndSplit();
  void FirstGroup(const WorkItem& item, Group& group) const;
  PlaneRows Keys(const Group& group, int64_t item, GroupRows& room) const;
  PlaneRows Values(const Group& group, int64_t item, GroupRows& room) const;
  void AttendGroup(const Group& group, const Group& next);
  AttendArgs ArgsOf(const Group& group, int64_t item) const;
  void Advance(AttendArgs& attend, int64_t num_items) const;
  void AttendFew(const Group& group, const Group& next);
  void AttendPacked(const Group& group, const Group& next);
  void FillVisible(const Group& group);
  bool ValuesFinite(const PlaneRows& values) const;
  void AttendOneByOne(const PlaneRows& values, AttendArgs attend);
  void MakeRecord(int64_t row, float* record) const;
  void Finish();

  const AttentionArgs& args_;
  const TilePlan& plan_;
  const AttentionKernel& kernel_;
  const std::span<const WorkItem> items_;
  const WorkItem& item_;  // the first of them
  const WorkItem* following_;
  const int32_t head_dim_;
  const int32_t padded_dim_;
  const int32_t row_bytes_;  // of a key
  int64_t num_rows_ = 0;     // rows of an item x its heads
  int64_t all_rows_ = 0;     // of all items
  int64_t all_sinks_ = 0;    // keys of an item
  int64_t num_sinks_ = 0;    // rotated so far

  // Scratch memory.
  int64_t* positions_ = nullptr;    // [all_rows_]
  int32_t* bias_rows_ = nullptr;    // [all_rows_]: query heads
  std::byte* q_ = nullptr;          // [all_rows_, head_dim] of kernel_.q_dtype
  std::byte* keys_ = nullptr;       // packed
  std::byte* values_ = nullptr;     // packed
  std::byte* sink_keys_ = nullptr;  // [KV heads, all_sinks_, head_dim], rotated
  uint64_t* visible_ = nullptr;     // [num_rows_], the same for every item
  float* records_ = nullptr;        // [all_rows_, kRecordHead + head_dim]: the splits that ended
  float* max_ = nullptr;  // these three, for all rows: the split in progress, as in AttendArgs
  float* sum_ = nullptr;
  float* acc_ = nullptr;
  float* probabilities_ = nullptr;  // these two, for all rows: as in AttendArgs
  float* correction_ = nullptr;

  ScoreRule rule_;  // of the group that is attended to, if scores need more than a scale

  // A group is attended to when the next one is known, so that this can be fetched meanwhile.
  Group groups_[2];
  int32_t num_groups_ = 0;    // the latest is groups_[(num_groups_ - 1) % 2]
  int64_t split_ = kNoSplit;  // in progress
  int32_t num_folded_ = 0;    // splits in records_

  static constexpr int64_t kNoSplit = std::numeric_limits<int64_t>::min();
};

}  // namespace ringserve
