// The arithmetic of a circular table: where the element with a given index lies. Indices are 64-bit
// and never wrap; slots do. The ring holds no elements and owns no memory.
//
//   first() <= index < end()   an element that is in the ring
//   index % capacity()         its slot
#pragma once

#include <cstdint>

#include "engine/base/check.h"

namespace ringserve {

class Ring {
 public:
  // An empty ring whose next element has the index `start`. Requires capacity >= 1, start >= 0.
  explicit Ring(int64_t capacity, int64_t start = 0)
      : capacity_(capacity), first_(start), end_(start) {
    RS_CHECK(capacity >= 1);
    RS_CHECK(start >= 0);
  }

  int64_t capacity() const { return capacity_; }

  // The read pointer: the oldest element.
  int64_t first() const { return first_; }

  // The write pointer: one past the newest element.
  int64_t end() const { return end_; }

  int64_t size() const { return end_ - first_; }

  bool empty() const { return end_ == first_; }

  bool full() const { return size() == capacity_; }

  // Requires first() <= index < end().
  int64_t Slot(int64_t index) const {
    RS_DCHECK(index >= first_);
    RS_DCHECK(index < end_);
    return index % capacity_;
  }

  // Moves the write pointer on; the slot of the new element. Requires !full().
  int64_t Append() {
    RS_CHECK(!full());
    return end_++ % capacity_;
  }

  // Moves the read pointer on; the slot of the element that left. Requires !empty().
  int64_t DropFirst() {
    RS_CHECK(!empty());
    return first_++ % capacity_;
  }

  // Moves the write pointer back; the slot of the element that left. Requires !empty().
  int64_t DropLast() {
    RS_CHECK(!empty());
    return --end_ % capacity_;
  }

 private:
  int64_t capacity_;
  int64_t first_;
  int64_t end_;
};

}  // namespace ringserve
