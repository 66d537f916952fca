// The bytes behind the places of a pool, for moving them about.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "engine/backend/backend.h"
#include "engine/base/status.h"
#include "engine/cache/block_pool.h"
#include "kernels/kv_view.h"

namespace ringserve {

// Borrows what it is given. One thread. Copies are enqueued, in the order of the calls and of the
// steps between them. They are of whole blocks: a block is one piece, and one large copy is cheaper
// than one for each plane of a part. What lies behind the written keys is copied unread.
class KvMemory {
 public:
  // The blocks of one group: `device` and `host` hold those of the two tiers, of `layout`; `host`
  // may be null if it has none.
  struct Bytes {
    std::byte* device = nullptr;
    std::byte* host = nullptr;
    KvLayout layout = {};
  };

  // `local` is for models whose pool has two groups.
  KvMemory(Backend& backend, const Bytes& global, const Bytes& local, BlockPool& pool)
      : backend_(backend), groups_{global, local}, pool_(pool) {}

  size_t block_bytes(BlockGroup group = BlockGroup::kGlobal) const {
    return static_cast<size_t>(Of(group).layout.block_bytes());
  }

  size_t bytes_of(int32_t block) const { return block_bytes(pool_.group_of(block)); }

  absl::Status CopyPlace(int32_t from, int32_t to) {
    return backend_.Copy(At(to), At(from), block_bytes(pool_.group_of_place(from)));
  }

  // `from` lies somewhere; `to` gets a place if it has none.
  absl::Status CopyBlock(int32_t from, int32_t to) {
    GivePlace(to);
    return CopyPlace(pool_.place(from), pool_.place(to));
  }

  // From and to host memory outside the pools.
  absl::Status Read(int32_t block, std::byte* to) {
    return backend_.Copy(to, At(pool_.place(block)), bytes_of(block));
  }

  absl::Status Write(int32_t block, const std::byte* from) {
    GivePlace(block);
    return backend_.Copy(At(pool_.place(block)), from, bytes_of(block));
  }

  // Reads have arrived and writes may be forgotten.
  absl::Status Synchronize() { return backend_.Synchronize(); }

 private:
  void GivePlace(int32_t block) {
    if (pool_.place(block) != BlockPool::kNowhere) {
      return;
    }
    if (pool_.num_free_device(pool_.group_of(block)) > 0) {
      pool_.MoveToDevice(block);
    } else {
      pool_.MoveToHost(block);
    }
  }

  std::byte* At(int32_t place) const {
    const BlockGroup group = pool_.group_of_place(place);
    const Bytes& bytes = Of(group);
    const int64_t index = place - pool_.first_place(group);
    const int64_t num_device = pool_.num_device(group);
    return index < num_device ? bytes.device + index * bytes.layout.block_bytes()
                              : bytes.host + (index - num_device) * bytes.layout.block_bytes();
  }

  const Bytes& Of(BlockGroup group) const { return groups_[static_cast<size_t>(group)]; }

  Backend& backend_;
  std::array<Bytes, 2> groups_;
  BlockPool& pool_;
};

}  // namespace ringserve
