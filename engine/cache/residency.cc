#include "engine/cache/residency.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "engine/base/check.h"

namespace ringserve {

Residency::Residency(BlockPool& pool, KvMemory& memory) : pool_(pool), memory_(memory) {
  pinned_.resize(static_cast<size_t>(pool.num_all_blocks()), 0);
  last_use_.resize(pinned_.size(), 0);
}

void Residency::BeginStep() {
  ++step_;
  num_pinned_ = {};
}

bool Residency::TryPin(std::span<const int32_t> blocks, const BlockCounts& num_new) {
  BlockCounts count = num_new;
  for (const int32_t block : blocks) {
    if (pinned_[static_cast<size_t>(block)] != step_) {
      ++(pool_.group_of(block) == BlockGroup::kGlobal ? count.global : count.local);
    }
  }
  const BlockCounts device = {pool_.num_device(), pool_.num_device(BlockGroup::kLocal)};
  if (!(num_pinned_ + count).FitsIn(device)) {
    if (num_pinned_.total() > 0) {
      return false;
    }
    // Alone it fits: blocks leave its window before it takes others. Who shares those may need them
    // still.
    count = device;
  }
  num_pinned_ += count;
  for (const int32_t block : blocks) {
    pinned_[static_cast<size_t>(block)] = step_;
  }
  return true;
}

absl::Status Residency::Bring(std::span<const int32_t> blocks) {
  std::array<int64_t, 2> num_missing = {};
  for (const int32_t block : blocks) {
    int64_t& last_use = last_use_[static_cast<size_t>(block)];
    if (last_use != step_) {
      last_use = step_;
      num_missing[static_cast<size_t>(pool_.group_of(block))] += pool_.is_on_device(block) ? 0 : 1;
    }
  }
  if (num_missing[0] + num_missing[1] == 0) {
    return absl::OkStatus();
  }
  // With room in neither tier, one block goes out for each that comes in.
  for (const int32_t block : blocks) {
    if (pool_.is_on_device(block)) {
      continue;
    }
    const BlockGroup group = pool_.group_of(block);
    int64_t& num_of_group = num_missing[static_cast<size_t>(group)];
    if (pool_.num_free_device(group) == 0) {
      RETURN_IF_ERROR(MakeRoom(group, num_of_group));
    }
    const int32_t from = pool_.MoveToDevice(block);
    if (from != BlockPool::kNowhere) {
      RETURN_IF_ERROR(memory_.CopyPlace(from, pool_.place(block)));
      ++num_restored_;
    }
    --num_of_group;
  }
  return absl::OkStatus();
}

// Sends blocks that this step does not use to the host, longest unused first: as many as wanted and
// as the host has room for, at least one.
absl::Status Residency::MakeRoom(BlockGroup group, int64_t num_places) {
  victims_.clear();
  const int32_t first = pool_.first_block(group);
  for (int32_t block = first; block < first + pool_.num_blocks(group); ++block) {
    if (pool_.is_on_device(block) && last_use_[static_cast<size_t>(block)] != step_) {
      victims_.push_back(block);
    }
  }
  const auto count = static_cast<std::ptrdiff_t>(std::min<int64_t>(
      {num_places, pool_.num_free_host(group), static_cast<int64_t>(victims_.size())}));
  RS_CHECK(count >= 1);
  std::partial_sort(
      victims_.begin(), victims_.begin() + count, victims_.end(), [&](int32_t a, int32_t b) {
        return std::pair(last_use_[static_cast<size_t>(a)], a) <
               std::pair(last_use_[static_cast<size_t>(b)], b);
      });
  victims_.resize(static_cast<size_t>(count));
  for (const int32_t block : victims_) {
    const int32_t from = pool_.MoveToHost(block);
    RETURN_IF_ERROR(memory_.CopyPlace(from, pool_.place(block)));
    ++num_spilled_;
  }
  return absl::OkStatus();
}

}  // namespace ringserve
