// The bytes behind the blocks of a pool, for moving them about.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/backend/backend.h"
#include "engine/base/status.h"
#include "kernels/kv_view.h"

namespace ringserve {

// Borrows what it is given. One thread.
class KvMemory {
 public:
  // `device` holds the blocks of the device pool, of `layout`.
  KvMemory(Backend& backend, std::byte* device, const KvLayout& layout)
      : backend_(backend), device_(device), layout_(layout) {}

  // Enqueues a copy of all of a block: it is one piece, and one copy of a whole block is cheaper
  // than one for each plane of a part. What lies behind the written keys is copied unread.
  absl::Status CopyBlock(int32_t from, int32_t to) {
    return backend_.Copy(At(to), At(from), static_cast<size_t>(layout_.block_bytes()));
  }

 private:
  std::byte* At(int32_t block) const { return device_ + block * layout_.block_bytes(); }

  Backend& backend_;
  std::byte* device_;
  KvLayout layout_;
};

}  // namespace ringserve
