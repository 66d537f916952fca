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

BlockPool::BlockPool(int32_t num_device, int32_t num_host)
    : num_device_(num_device), num_host_(num_host) {
  RS_CHECK(num_device >= 0);
  RS_CHECK(num_host >= 0);
  const int32_t num_blocks = num_host > 0 ? num_device + num_host - 1 : num_device;
  owners_.resize(static_cast<size_t>(num_blocks), 0);
  is_cached_.resize(owners_.size(), false);
  places_.resize(owners_.size(), kNowhere);
  free_ = StackOf(0, num_blocks);
  free_device_ = StackOf(0, num_device);
  free_host_ = StackOf(num_device, num_host);
}

std::optional<int32_t> BlockPool::Acquire() {
  if (free_.empty()) {
    if (num_reclaimable_ == 0) {
      return std::nullopt;
    }
    reclaimer_();
    RS_CHECK(!free_.empty());
  }
  const int32_t block = free_.back();
  free_.pop_back();
  RS_CHECK(num_owners(block) == 0);
  owners_[static_cast<size_t>(block)] = 1;
  ++num_references_;
  if (!free_device_.empty()) {
    MoveToDevice(block);
  }
  return block;
}

void BlockPool::AddOwner(int32_t block) {
  RS_CHECK(block >= 0);
  RS_CHECK(block < num_blocks());
  int32_t& owners = owners_[static_cast<size_t>(block)];
  if (owners == 0) {
    RS_CHECK(is_cached(block));
    --num_reclaimable_;
  }
  ++owners;
  ++num_references_;
}

void BlockPool::Release(int32_t block) {
  RS_CHECK(block >= 0);
  RS_CHECK(block < num_blocks());
  RS_CHECK(num_owners(block) > 0);
  --num_references_;
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
    (place < num_device_ ? free_device_ : free_host_).push_back(place);
  }
}

void BlockPool::Free(int32_t block) {
  int32_t& place = places_[static_cast<size_t>(block)];
  FreePlace(place);
  place = kNowhere;
  free_.push_back(block);
}

bool BlockPool::Balances(std::span<const int32_t> references) const {
  std::vector<int32_t> held(owners_.size(), 0);
  for (const int32_t block : references) {
    if (block < 0 || block >= num_blocks()) {
      return false;
    }
    ++held[static_cast<size_t>(block)];
  }
  int32_t num_unowned = 0;
  int32_t num_only_cached = 0;
  for (size_t block = 0; block < held.size(); ++block) {
    num_unowned += held[block] == 0 ? 1 : 0;
    num_only_cached += held[block] == 0 && is_cached_[block] ? 1 : 0;
  }
  return held == owners_ && num_unowned == num_free() + num_reclaimable_ &&
         num_only_cached == num_reclaimable_ &&
         num_references_ == static_cast<int64_t>(references.size()) && PlacesBalance();
}

bool BlockPool::PlacesBalance() const {
  std::vector<bool> is_taken(static_cast<size_t>(num_device_ + num_host_), false);
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
    if (is_free || !take(places_[block])) {
      return false;
    }
  }
  for (const std::vector<int32_t>* const places : {&free_device_, &free_host_}) {
    for (const int32_t place : *places) {
      if (!take(place)) {
        return false;
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
