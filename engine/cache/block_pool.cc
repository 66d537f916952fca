#include "engine/cache/block_pool.h"

#include <cstddef>

#include "engine/base/check.h"

namespace ringserve {
namespace {

std::vector<int32_t> StackOf(int32_t first, int32_t count) {
  std::vector<int32_t> stack;
  stack.reserve(static_cast<size_t>(count));
  for (int32_t i = first + count - 1; i >= first; --i) {
    stack.push_back(i);
  }
  return stack;
}

}  // namespace

BlockPool::BlockPool(int32_t num_device, int32_t num_host, Tiers local) {
  int32_t first_block = 0;
  int32_t first_place = 0;
  for (const BlockGroup index : kBlockGroups) {
    Group& group = Of(index);
    group.tiers = index == BlockGroup::kGlobal ? Tiers{num_device, num_host} : local;
    RS_CHECK(group.tiers.num_device >= 0);
    RS_CHECK(group.tiers.num_host >= 0);
    const int32_t num_places = group.tiers.num_device + group.tiers.num_host;
    group.num_blocks = group.tiers.num_host > 0 ? num_places - 1 : num_places;
    group.first_block = first_block;
    group.first_place = first_place;
    group.free = StackOf(first_block, group.num_blocks);
    group.free_device = StackOf(first_place, group.tiers.num_device);
    group.free_host = StackOf(first_place + group.tiers.num_device, group.tiers.num_host);
    first_block += group.num_blocks;
    first_place += num_places;
  }
  owners_.resize(static_cast<size_t>(first_block), 0);
  is_cached_.resize(owners_.size(), false);
  places_.resize(owners_.size(), kNowhere);
}

std::optional<int32_t> BlockPool::Acquire(BlockGroup index) {
  Group& group = Of(index);
  if (group.free.empty()) {
    if (index == BlockGroup::kLocal || num_reclaimable_ == 0) {
      return std::nullopt;
    }
    reclaimer_();
    RS_CHECK(!group.free.empty());
  }
  const int32_t block = group.free.back();
  group.free.pop_back();
  RS_CHECK(num_owners(block) == 0);
  owners_[static_cast<size_t>(block)] = 1;
  ++group.num_references;
  if (!group.free_device.empty()) {
    MoveToDevice(block);
  }
  return block;
}

void BlockPool::AddOwner(int32_t block) {
  RS_CHECK(block >= 0);
  RS_CHECK(block < num_all_blocks());
  int32_t& owners = owners_[static_cast<size_t>(block)];
  if (owners == 0) {
    RS_CHECK(is_cached(block));
    --num_reclaimable_;
  }
  ++owners;
  ++Of(group_of(block)).num_references;
}

void BlockPool::Release(int32_t block) {
  RS_CHECK(block >= 0);
  RS_CHECK(block < num_all_blocks());
  RS_CHECK(num_owners(block) > 0);
  --Of(group_of(block)).num_references;
  if (--owners_[static_cast<size_t>(block)] > 0) {
    return;
  }
  if (is_cached(block)) {
    ++num_reclaimable_;
  } else {
    Free(block);
  }
}

void BlockPool::SetCached(int32_t block, bool cached) {
  RS_CHECK(num_owners(block) > 0 || is_cached(block));
  RS_CHECK(group_of(block) == BlockGroup::kGlobal);
  if (is_cached(block) == cached) {
    return;
  }
  is_cached_[static_cast<size_t>(block)] = cached;
  if (num_owners(block) == 0) {
    --num_reclaimable_;
    Free(block);
  }
}

int32_t BlockPool::Move(int32_t block, std::vector<int32_t>& free_places) {
  RS_CHECK(!free_places.empty());
  int32_t& place = places_[static_cast<size_t>(block)];
  const int32_t old = place;
  place = free_places.back();
  free_places.pop_back();
  FreePlace(old);
  return old;
}

void BlockPool::FreePlace(int32_t place) {
  if (place != kNowhere) {
    Group& group = Of(group_of_place(place));
    const bool is_device = place - group.first_place < group.tiers.num_device;
    (is_device ? group.free_device : group.free_host).push_back(place);
  }
}

void BlockPool::Free(int32_t block) {
  int32_t& place = places_[static_cast<size_t>(block)];
  FreePlace(place);
  place = kNowhere;
  Of(group_of(block)).free.push_back(block);
}

bool BlockPool::Balances(std::span<const int32_t> references) const {
  std::vector<int32_t> held(owners_.size(), 0);
  for (const int32_t block : references) {
    if (block < 0 || block >= num_all_blocks()) {
      return false;
    }
    ++held[static_cast<size_t>(block)];
  }
  for (const BlockGroup index : kBlockGroups) {
    const Group& group = Of(index);
    int32_t num_unheld = 0;
    int64_t num_held = 0;
    for (int32_t block = group.first_block; block < group.first_block + group.num_blocks; ++block) {
      num_unheld += held[static_cast<size_t>(block)] == 0 ? 1 : 0;
      num_held += held[static_cast<size_t>(block)];
    }
    const int32_t num_cached = index == BlockGroup::kGlobal ? num_reclaimable_ : 0;
    if (num_unheld != num_free(index) + num_cached || num_held != group.num_references) {
      return false;
    }
  }
  int32_t num_only_cached = 0;
  for (size_t block = 0; block < held.size(); ++block) {
    num_only_cached += held[block] == 0 && is_cached_[block] ? 1 : 0;
  }
  return held == owners_ && num_only_cached == num_reclaimable_ && PlacesBalance();
}

bool BlockPool::PlacesBalance() const {
  const Group& last = Of(BlockGroup::kLocal);
  const int32_t num_places = last.first_place + last.tiers.num_device + last.tiers.num_host;
  std::vector<bool> is_taken(static_cast<size_t>(num_places), false);
  const auto take = [&](int32_t place) {
    const bool was_taken = is_taken[static_cast<size_t>(place)];
    is_taken[static_cast<size_t>(place)] = true;
    return !was_taken;
  };
  for (size_t block = 0; block < places_.size(); ++block) {
    const bool is_free = owners_[block] == 0 && !is_cached_[block];
    if (places_[block] == kNowhere) {
      continue;
    }
    if (is_free || group_of(static_cast<int32_t>(block)) != group_of_place(places_[block]) ||
        !take(places_[block])) {
      return false;
    }
  }
  for (const Group& group : groups_) {
    for (const std::vector<int32_t>* const places : {&group.free_device, &group.free_host}) {
      for (const int32_t place : *places) {
        if (!take(place)) {
          return false;
        }
      }
    }
  }
  for (const bool taken : is_taken) {
    if (!taken) {
      return false;
    }
  }
  return true;
}

}  // namespace ringserve
