// A ring of references to pool blocks, by absolute block index: block b of a sequence holds the
// positions [b * block_size, (b + 1) * block_size). The ring owns one reference per entry; who
// takes a block out takes its reference along.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/cache/ring.h"

namespace ringserve {

class BlockRing {
 public:
  explicit BlockRing(int64_t capacity) : ring_(capacity), blocks_(static_cast<size_t>(capacity)) {}

  int64_t capacity() const { return ring_.capacity(); }

  int64_t first() const { return ring_.first(); }

  int64_t end() const { return ring_.end(); }

  int64_t size() const { return ring_.size(); }

  bool empty() const { return ring_.empty(); }

  bool full() const { return ring_.full(); }

  int32_t operator[](int64_t index) const { return blocks_[ToSize(ring_.Slot(index))]; }

  // Takes over the caller's reference.
  void Append(int32_t block) { blocks_[ToSize(ring_.Append())] = block; }

  // These hand the ring's reference to the caller.
  [[nodiscard]] int32_t TakeFirst() { return blocks_[ToSize(ring_.DropFirst())]; }

  [[nodiscard]] int32_t TakeLast() { return blocks_[ToSize(ring_.DropLast())]; }

  // Exchanges the block of an entry; the caller owns the old reference. For moves between pools and
  // copies on write.
  [[nodiscard]] int32_t Exchange(int64_t index, int32_t block) {
    int32_t& entry = blocks_[ToSize(ring_.Slot(index))];
    const int32_t old = entry;
    entry = block;
    return old;
  }

  // Where the next entry of an empty ring stands. Requires empty().
  void Restart(int64_t start) {
    RS_CHECK(ring_.empty());
    ring_ = Ring(ring_.capacity(), start);
  }

 private:
  static size_t ToSize(int64_t slot) { return static_cast<size_t>(slot); }

  Ring ring_;
  std::vector<int32_t> blocks_;
};

}  // namespace ringserve
