#include "engine/cache/block_pool.h"

#include <cstddef>

#include "engine/base/check.h"

namespace ringserve {

BlockPool::BlockPool(int32_t num_blocks) {
  RS_CHECK(num_blocks >= 0);
  owners_.resize(static_cast<size_t>(num_blocks), 0);
  free_.reserve(static_cast<size_t>(num_blocks));
  for (int32_t block = num_blocks - 1; block >= 0; --block) {
    free_.push_back(block);
  }
}

std::optional<int32_t> BlockPool::Acquire() {
  if (free_.empty()) {
    return std::nullopt;
  }
  const int32_t block = free_.back();
  free_.pop_back();
  RS_CHECK(num_owners(block) == 0);
  owners_[static_cast<size_t>(block)] = 1;
  ++num_references_;
  return block;
}

void BlockPool::AddOwner(int32_t block) {
  RS_CHECK(block >= 0);
  RS_CHECK(block < num_blocks());
  RS_CHECK(num_owners(block) > 0);
  ++owners_[static_cast<size_t>(block)];
  ++num_references_;
}

void BlockPool::Release(int32_t block) {
  RS_CHECK(block >= 0);
  RS_CHECK(block < num_blocks());
  RS_CHECK(num_owners(block) > 0);
  --num_references_;
  if (--owners_[static_cast<size_t>(block)] == 0) {
    free_.push_back(block);
  }
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
  for (const int32_t count : held) {
    num_unowned += count == 0 ? 1 : 0;
  }
  return held == owners_ && num_unowned == num_free() &&
         num_references_ == static_cast<int64_t>(references.size());
}

}  // namespace ringserve
