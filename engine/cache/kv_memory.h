// The bytes behind the places of a pool, for moving them about.
#pragma once

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
  // `device` and `host` hold the blocks of the two tiers of `pool`, of `layout`; `host` may be null
  // if it has none.
  KvMemory(
      Backend& backend, std::byte* device, std::byte* host, const KvLayout& layout, BlockPool& pool)
      : backend_(backend), device_(device), host_(host), layout_(layout), pool_(pool) {}

  size_t block_bytes() const { return static_cast<size_t>(layout_.block_bytes()); }

  absl::Status CopyPlace(int32_t from, int32_t to) {
    return backend_.Copy(At(to), At(from), block_bytes());
  }

  // `from` lies somewhere; `to` gets a place if it has none.
  absl::Status CopyBlock(int32_t from, int32_t to) {
    GivePlace(to);
    return CopyPlace(pool_.place(from), pool_.place(to));
  }

  // From and to host memory outside the pools.
  absl::Status Read(int32_t block, std::byte* to) {
    return backend_.Copy(to, At(pool_.place(block)), block_bytes());
  }

  absl::Status Write(int32_t block, const std::byte* from) {
    GivePlace(block);
    return backend_.Copy(At(pool_.place(block)), from, block_bytes());
  }

  // Reads have arrived and writes may be forgotten.
  absl::Status Synchronize() { return backend_.Synchronize(); }

 private:
  void GivePlace(int32_t block) {
    if (pool_.place(block) != BlockPool::kNowhere) {
      return;
    }
    if (pool_.num_free_device() > 0) {
      pool_.MoveToDevice(block);
    } else {
      pool_.MoveToHost(block);
    }
  }

  std::byte* At(int32_t place) const {
    return place < pool_.num_device()
               ? device_ + place * layout_.block_bytes()
               : host_ + (place - pool_.num_device()) * layout_.block_bytes();
  }

  Backend& backend_;
  std::byte* device_;
  std::byte* host_;
  KvLayout layout_;
  BlockPool& pool_;
};

}  // namespace ringserve
