#include "engine/cache/ring.h"

#include <cstdint>
#include <deque>
#include <random>
#include <vector>

#include "engine/cache/block_ring.h"
#include "tests/support/catch.h"

namespace ringserve {
namespace {

TEST_CASE("a ring of slots follows a deque through wraps and rollbacks") {
  std::mt19937_64 random(1);
  for (const int64_t capacity : {1, 2, 3, 7, 16}) {
    for (const int64_t start : {int64_t{0}, int64_t{5}, (int64_t{1} << 40) + 3}) {
      Ring ring(capacity, start);
      std::deque<int64_t> model;  // indices
      std::vector<int64_t> table(static_cast<size_t>(capacity), -1);
      int64_t next = start;
      for (int i = 0; i < 3000; ++i) {
        switch (random() % 4) {
          case 0:
          case 1:
            if (!ring.full()) {
              table[static_cast<size_t>(ring.Append())] = next;
              model.push_back(next++);
            }
            break;
          case 2:
            if (!ring.empty()) {
              REQUIRE(table[static_cast<size_t>(ring.DropFirst())] == model.front());
              model.pop_front();
            }
            break;
          default:
            for (uint64_t n = random() % 4; n > 0 && !ring.empty(); --n) {
              REQUIRE(table[static_cast<size_t>(ring.DropLast())] == model.back());
              model.pop_back();
              --next;
            }
        }
        REQUIRE(ring.size() == static_cast<int64_t>(model.size()));
        REQUIRE(ring.empty() == model.empty());
        REQUIRE(ring.full() == (ring.size() == capacity));
        REQUIRE(ring.end() == next);
        for (const int64_t index : model) {
          REQUIRE(table[static_cast<size_t>(ring.Slot(index))] == index);
        }
        if (!model.empty()) {
          REQUIRE(ring.first() == model.front());
        }
      }
    }
  }
}

TEST_CASE("a block ring hands its references over at both ends") {
  std::mt19937_64 random(2);
  BlockRing ring(5);
  std::deque<int32_t> model;
  for (int32_t block = 0; block < 4000; ++block) {
    if (!ring.full()) {
      ring.Append(block);
      model.push_back(block);
    }
    if (random() % 3 == 0 && !ring.empty()) {
      REQUIRE(ring.TakeFirst() == model.front());
      model.pop_front();
    }
    if (random() % 3 == 0 && !ring.empty()) {
      REQUIRE(ring.TakeLast() == model.back());
      model.pop_back();
    }
    if (random() % 5 == 0 && !ring.empty()) {
      const auto offset = static_cast<int64_t>(random() % model.size());
      int32_t& entry = model[static_cast<size_t>(offset)];
      REQUIRE(ring.Exchange(ring.first() + offset, -block) == entry);
      entry = -block;
    }
    REQUIRE(ring.size() == static_cast<int64_t>(model.size()));
    for (size_t i = 0; i < model.size(); ++i) {
      REQUIRE(ring[ring.first() + static_cast<int64_t>(i)] == model[i]);
    }
  }
  while (!ring.empty()) {
    REQUIRE(ring.TakeFirst() == model.front());
    model.pop_front();
  }
  ring.Restart(100);
  ring.Append(7);
  REQUIRE(ring.first() == 100);
  REQUIRE(ring[100] == 7);
}

}  // namespace
}  // namespace ringserve
