#include "engine/cache/residency.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "engine/base/check.h"

namespace ringserve {

Residency::Residency(BlockPool& pool, KvMemory& memory) : pool_(pool), memory_(memory) {
  pinned_.resize(static_cast<size_t>(pool.num_blocks()), 0);
  last_use_.resize(pinned_.size(), 0);
}

void Residency::BeginStep() {
  ++step_;
  num_pinned_ = 0;
}

bool Residency::TryPin(std::span<const int32_t> blocks, int64_t num_new) {
  int64_t count = num_new;
  for (const int32_t block : blocks) {
    count += pinned_[static_cast<size_t>(block)] == step_ ? 0 : 1;
  }
  if (num_pinned_ + count > pool_.num_device()) {
    if (num_pinned_ > 0) {
      return false;
    }
    // Alone it fits: blocks leave its window before it takes others. Who shares those may need them
    // still.
    count = pool_.num_device();
  }
  num_pinned_ += count;
  for (const int32_t block : blocks) {
    pinned_[static_cast<size_t>(block)] = step_;
  }
  return true;
}

absl::Status Residency::Bring(std::span<const int32_t> blocks) {
  int64_t num_missing = 0;
  for (const int32_t block : blocks) {
    int64_t& last_use = last_use_[static_cast<size_t>(block)];
    if (last_use != step_) {
      last_use = step_;
      num_missing += pool_.is_on_device(block) ? 0 : 1;
    }
  }
  if (num_missing == 0) {
    return absl::OkStatus();
  }
  // With room in neither tier, one block goes out for each that comes in.
  for (const int32_t block : blocks) {
    if (pool_.is_on_device(block)) {
      continue;
    }
    if (pool_.num_free_device() == 0) {
      RETURN_IF_ERROR(MakeRoom(num_missing));
    }
    const int32_t from = pool_.MoveToDevice(block);
    if (from != BlockPool::kNowhere) {
      RETURN_IF_ERROR(memory_.CopyPlace(from, pool_.place(block)));
      ++num_restored_;
    }
    --num_missing;
  }
  return absl::OkStatus();
}

// Sends blocks that this step does not use to the host, longest unused first: as many as wanted and
// as the host has room for, at least one.
absl::Status Residency::MakeRoom(int64_t num_places) {
  victims_.clear();
  for (int32_t block = 0; block < pool_.num_blocks(); ++block) {
    if (pool_.is_on_device(block) && last_use_[static_cast<size_t>(block)] != step_) {
      victims_.push_back(block);
    }
  }
  const auto count = static_cast<std::ptrdiff_t>(std::min<int64_t>(
      {num_places, pool_.num_free_host(), static_cast<int64_t>(victims_.size())}));
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
