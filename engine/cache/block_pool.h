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
//
// Models that alternate local and global layers have blocks of two sizes: each size is a group with
// blocks, places and counts of its own, and a block's index tells its group. Indices and places of
// the second group follow those of the first.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace ringserve {

// Of global layers' blocks, which are all blocks in a model of one window group, or of those of
// layers that see a window beside them.
enum class BlockGroup : uint8_t { kGlobal, kLocal };

inline constexpr std::array<BlockGroup, 2> kBlockGroups = {BlockGroup::kGlobal, BlockGroup::kLocal};

// So many blocks of each group.
struct BlockCounts {
  int64_t global = 0;
  int64_t local = 0;

  int64_t total() const { return global + local; }

  int64_t of(BlockGroup group) const { return group == BlockGroup::kGlobal ? global : local; }

  // True if there are as many in `other`, of either group.
  bool FitsIn(const BlockCounts& other) const {
    return global <= other.global && local <= other.local;
  }

  BlockCounts& operator+=(const BlockCounts& more) {
    global += more.global;
    local += more.local;
    return *this;
  }

  BlockCounts& operator-=(const BlockCounts& less) {
    global -= less.global;
    local -= less.local;
    return *this;
  }

  friend BlockCounts operator+(BlockCounts a, const BlockCounts& b) { return a += b; }

  friend BlockCounts operator-(BlockCounts a, const BlockCounts& b) { return a -= b; }

  bool operator==(const BlockCounts&) const = default;
};

class BlockPool {
 public:
  static constexpr int32_t kNowhere = -1;

  // Blocks of one group in the two tiers.
  struct Tiers {
    int32_t num_device = 0;
    int32_t num_host = 0;
  };

  // num_device >= 0, num_host >= 0; their sum, of both groups, is below 2^31.
  explicit BlockPool(int32_t num_device, int32_t num_host = 0, Tiers local = {0, 0});

  // Of a group, as all that follow.
  int32_t num_blocks(BlockGroup group = BlockGroup::kGlobal) const { return Of(group).num_blocks; }

  int32_t num_device(BlockGroup group = BlockGroup::kGlobal) const {
    return Of(group).tiers.num_device;
  }

  int32_t num_host(BlockGroup group = BlockGroup::kGlobal) const {
    return Of(group).tiers.num_host;
  }

  int32_t num_free(BlockGroup group = BlockGroup::kGlobal) const {
    return static_cast<int32_t>(Of(group).free.size());
  }

  // Of both groups together.
  int32_t num_all_blocks() const { return static_cast<int32_t>(owners_.size()); }

  BlockCounts counts() const {
    return {num_blocks(BlockGroup::kGlobal), num_blocks(BlockGroup::kLocal)};
  }

  // The first index, and the first place, of a group.
  int32_t first_block(BlockGroup group) const { return Of(group).first_block; }

  int32_t first_place(BlockGroup group) const { return Of(group).first_place; }

  BlockGroup group_of(int32_t block) const {
    return block < Of(BlockGroup::kLocal).first_block ? BlockGroup::kGlobal : BlockGroup::kLocal;
  }

  BlockGroup group_of_place(int32_t place) const {
    return place < Of(BlockGroup::kLocal).first_place ? BlockGroup::kGlobal : BlockGroup::kLocal;
  }

  // Cached blocks without owners: Acquire can have them. Only global blocks are cached.
  int32_t num_reclaimable() const { return num_reclaimable_; }

  // Blocks that have owners.
  int32_t num_owned() const { return num_blocks() - num_free() - num_reclaimable_; }

  // References held by all owners together.
  int64_t num_references(BlockGroup group = BlockGroup::kGlobal) const {
    return Of(group).num_references;
  }

  // A free block, with the caller as its one owner; none if all are owned. It lies on the device if
  // that has room, else nowhere yet.
  [[nodiscard]] std::optional<int32_t> Acquire(BlockGroup group = BlockGroup::kGlobal);
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
    const Group& group = Of(group_of(block));
    return place(block) != kNowhere && place(block) - group.first_place < group.tiers.num_device;
  }

  int32_t num_free_device(BlockGroup group = BlockGroup::kGlobal) const {
    return static_cast<int32_t>(Of(group).free_device.size());
  }

  int32_t num_free_host(BlockGroup group = BlockGroup::kGlobal) const {
    return static_cast<int32_t>(Of(group).free_host.size());
  }

  // Gives the block a place of that tier instead of its own; the old place, kNowhere if it had
  // none. Requires a free place there. The caller moves the bytes before either place is used.
  int32_t MoveToDevice(int32_t block) { return Move(block, Of(group_of(block)).free_device); }

  int32_t MoveToHost(int32_t block) { return Move(block, Of(group_of(block)).free_host); }

  // True if `references`, all blocks that the owners hold (one entry per reference, any order), are
  // exactly what the pool has counted, every other block is free or cached, and no two blocks lie
  // in one place. O(num_blocks + references).
  bool Balances(std::span<const int32_t> references) const;

 private:
  struct Group {
    Tiers tiers;
    int32_t num_blocks = 0;
    int32_t first_block = 0;
    int32_t first_place = 0;
    std::vector<int32_t> free;  // stacks: what was freed last is used first, while it is warm
    std::vector<int32_t> free_device;
    std::vector<int32_t> free_host;
    int64_t num_references = 0;
  };

  const Group& Of(BlockGroup group) const { return groups_[static_cast<size_t>(group)]; }

  Group& Of(BlockGroup group) { return groups_[static_cast<size_t>(group)]; }

  int32_t Move(int32_t block, std::vector<int32_t>& free_places);
  void FreePlace(int32_t place);
  void Free(int32_t block);
  bool PlacesBalance() const;

  std::array<Group, 2> groups_;
  std::vector<int32_t> owners_;  // per block
  std::vector<bool> is_cached_;  // per block
  std::vector<int32_t> places_;  // per block
  std::function<void()> reclaimer_;
  int32_t num_reclaimable_ = 0;
};

}  // namespace ringserve
