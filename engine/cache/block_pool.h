// A fixed pool of KV blocks: which are free, and how many owners each of the others has. One pool
// per tier (device, pinned). Knows indices only; the bytes lie in a Buffer of the engine's. Nothing
// is allocated after construction. One thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace ringserve {

class BlockPool {
 public:
  // num_blocks >= 0.
  explicit BlockPool(int32_t num_blocks);

  int32_t num_blocks() const { return static_cast<int32_t>(owners_.size()); }

  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }

  // References held by all owners together.
  int64_t num_references() const { return num_references_; }

  // A free block, with the caller as its one owner; none if the pool is used up.
  [[nodiscard]] std::optional<int32_t> Acquire();
  // One more owner of a block that has one.
  void AddOwner(int32_t block);
  // One owner less; without owners a block is free.
  void Release(int32_t block);

  int32_t num_owners(int32_t block) const { return owners_[static_cast<size_t>(block)]; }

  // True if `references`, all blocks that the owners hold (one entry per reference, any order), are
  // exactly what the pool has counted and every other block is free. O(num_blocks + references).
  bool Balances(std::span<const int32_t> references) const;

 private:
  std::vector<int32_t> owners_;  // per block; 0: free
  std::vector<int32_t> free_;    // a stack: the block freed last is used first, while it is warm
  int64_t num_references_ = 0;
};

}  // namespace ringserve
