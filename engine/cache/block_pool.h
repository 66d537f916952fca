// A fixed pool of KV blocks: which are free, how many owners each of the others has, and where its
// bytes lie. Knows indices only; the bytes lie in Buffers of the engine's. Nothing is allocated
// after construction. One thread.
//
// A block keeps its index wherever its bytes go: to move between tiers changes its place, and no
// ring hears of it.
//   place in [0, num_device)                        a block of the device pool
//   place in [num_device, num_device + num_host)    a block of the host pool
// With a host pool there is one place more than there are blocks: some place is always free, so
// that any two blocks can change tiers.
//
// A block may be cached (prefix_cache.h): it then keeps its contents without owners until Acquire
// has no other block to give.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace ringserve {

class BlockPool {
 public:
  static constexpr int32_t kNowhere = -1;

  // num_device >= 0, num_host >= 0; their sum is below 2^31.
  explicit BlockPool(int32_t num_device, int32_t num_host = 0);

  int32_t num_blocks() const { return static_cast<int32_t>(owners_.size()); }

  int32_t num_device() const { return num_device_; }

  int32_t num_host() const { return num_host_; }

  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }

  // Cached blocks without owners: Acquire can have them.
  int32_t num_reclaimable() const { return num_reclaimable_; }

  // Blocks that have owners.
  int32_t num_owned() const { return num_blocks() - num_free() - num_reclaimable_; }

  // References held by all owners together.
  int64_t num_references() const { return num_references_; }

  // A free block, with the caller as its one owner; none if all are owned. It lies on the device if
  // that has room, else nowhere yet.
  [[nodiscard]] std::optional<int32_t> Acquire();
  // One more owner of a block that has one or is cached.
  void AddOwner(int32_t block);
  // One owner less; without owners a block is free unless it is cached.
  void Release(int32_t block);

  int32_t num_owners(int32_t block) const { return owners_[static_cast<size_t>(block)]; }

  // True if someone but one owner may read it: then nobody may write to it.
  bool is_shared(int32_t block) const { return num_owners(block) > 1 || is_cached(block); }

  bool is_cached(int32_t block) const { return is_cached_[static_cast<size_t>(block)]; }

  // Requires that the block is owned or cached.
  void SetCached(int32_t block, bool cached);

  // Called by Acquire when only cached blocks are left: must take the mark from one that has no
  // owner.
  void set_reclaimer(std::function<void()> reclaimer) { reclaimer_ = std::move(reclaimer); }

  int32_t place(int32_t block) const { return places_[static_cast<size_t>(block)]; }

  bool is_on_device(int32_t block) const {
    return place(block) != kNowhere && place(block) < num_device_;
  }

  int32_t num_free_device() const { return static_cast<int32_t>(free_device_.size()); }

  int32_t num_free_host() const { return static_cast<int32_t>(free_host_.size()); }

  // Gives the block a place of that tier instead of its own; the old place, kNowhere if it had
  // none. Requires a free place there. The caller moves the bytes before either place is used.
  int32_t MoveToDevice(int32_t block) { return Move(block, free_device_); }

  int32_t MoveToHost(int32_t block) { return Move(block, free_host_); }

  // True if `references`, all blocks that the owners hold (one entry per reference, any order), are
  // exactly what the pool has counted, every other block is free or cached, and no two blocks lie
  // in one place. O(num_blocks + references).
  bool Balances(std::span<const int32_t> references) const;

 private:
  int32_t Move(int32_t block, std::vector<int32_t>& free_places);
  void FreePlace(int32_t place);
  void Free(int32_t block);
  bool PlacesBalance() const;

  int32_t num_device_;
  int32_t num_host_;
  std::vector<int32_t> owners_;  // per block
  std::vector<bool> is_cached_;  // per block
  std::vector<int32_t> places_;  // per block
  std::vector<int32_t> free_;    // stacks: what was freed last is used first, while it is warm
  std::vector<int32_t> free_device_;
  std::vector<int32_t> free_host_;
  std::function<void()> reclaimer_;
  int32_t num_reclaimable_ = 0;
  int64_t num_references_ = 0;
};

}  // namespace ringserve
