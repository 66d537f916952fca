// Sessions against the obvious model: a text, a map from slots to what was written there, and the
// definition of what a position sees.
#include "engine/session.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "tests/support/catch.h"

namespace ringserve {
namespace {

struct Written {
  int64_t position = -1;
  int32_t token_id = -1;
  bool operator==(const Written&) const = default;
};

// The KV memory, reduced to who is where. A free block is wiped, so that a stale slot shows.
class Memory {
 public:
  Memory(const SessionShape& shape, int32_t num_blocks) : shape_(shape), pool_(num_blocks) {}

  BlockPool& pool() { return pool_; }

  void Write(int64_t slot, Written what) {
    REQUIRE(pool_.num_owners(BlockOf(slot)) == 1);  // shared blocks are immutable
    slots_[slot] = what;
  }

  void Copy(const BlockCopy& copy) {
    for (int64_t i = 0; i < copy.num_keys; ++i) {
      slots_[int64_t{copy.to} * shape_.block_size + i] =
          slots_[int64_t{copy.from} * shape_.block_size + i];
    }
  }

  Written Read(int64_t slot) const {
    const auto found = slots_.find(slot);
    return found == slots_.end() ? Written{} : found->second;
  }

  void WipeFree() {
    std::erase_if(slots_,
                  [&](const auto& slot) { return pool_.num_owners(BlockOf(slot.first)) == 0; });
  }

 private:
  int32_t BlockOf(int64_t slot) const { return static_cast<int32_t>(slot / shape_.block_size); }

  SessionShape shape_;
  BlockPool pool_;
  std::map<int64_t, Written> slots_;
};

// By the definition in session.h, not by its arithmetic.
int64_t ObviousWindowFirst(const SessionShape& shape, int64_t position) {
  if (shape.window > 0) {
    int64_t block = 0;  // of the oldest position seen
    while (position - (block + shape.block_size - 1) >= shape.window) {
      block += shape.block_size;
    }
    return block;
  }
  if (!shape.slides || position < shape.buffer_size) {
    return 0;
  }
  int64_t first = 0;
  while (first < position + 1 - shape.buffer_size) {
    first += shape.block_size;
  }
  return first;
}

void CheckContext(const Session& session,
                  const SessionShape& shape,
                  const Memory& memory,
                  const std::vector<int32_t>& text) {
  const auto length = static_cast<int64_t>(text.size());
  REQUIRE(session.position() == length);
  if (length == 0) {
    return;
  }
  std::vector<BlockEntry> entries;
  session.AppendContext(77, entries);
  // The rows of a step may see windows of the model's own that begin in different blocks.
  const int64_t first =
      shape.window > 0 ? session.window_first()
                       : std::max(ObviousWindowFirst(shape, length - 1), session.window_first());
  REQUIRE((shape.window == 0 || first <= ObviousWindowFirst(shape, length)));
  size_t next = 0;
  if (shape.sink_size > 0 && first > 0) {
    const BlockEntry& sinks = entries[next++];
    REQUIRE(sinks.sink_angle_row == 77);
    REQUIRE(sinks.num_keys == shape.sink_size);
    REQUIRE(sinks.position == first - shape.sink_size);
    for (int32_t j = 0; j < sinks.num_keys; ++j) {
      const int64_t slot = int64_t{sinks.block} * shape.block_size + j;
      REQUIRE(memory.Read(slot) == Written{j, text[static_cast<size_t>(j)]});
    }
  }
  int64_t position = first;
  for (; next < entries.size(); ++next) {
    const BlockEntry& entry = entries[next];
    REQUIRE(entry.sink_angle_row == -1);
    REQUIRE(entry.position == position);
    REQUIRE(entry.position % shape.block_size == 0);
    for (int32_t j = 0; j < entry.num_keys; ++j, ++position) {
      const int64_t slot = int64_t{entry.block} * shape.block_size + j;
      REQUIRE(slot == session.Slot(position));
      REQUIRE(memory.Read(slot) == Written{position, text[static_cast<size_t>(position)]});
      REQUIRE(session.TokenAt(position) == text[static_cast<size_t>(position)]);
    }
  }
  REQUIRE(position == length);
}

struct Case {
  SessionShape shape;
  uint64_t seed = 0;
};

// Random appends, commits and rollbacks of one session; some of its blocks are held by another
// owner for a while, as a fork or a shared prefix would.
void RunRandom(const Case& test) {
  const SessionShape& shape = test.shape;
  const int64_t worst = WorstCaseBlocks(shape, INT64_MAX).global;
  const int32_t spare = 6;
  Memory memory(shape, static_cast<int32_t>(worst) + spare);
  std::mt19937_64 random(test.seed);
  auto session = std::make_unique<Session>(shape, INT64_MAX, memory.pool());
  std::vector<int32_t> text;
  std::vector<int32_t> foreign;  // references of the other owner
  for (int i = 0; i < 300; ++i) {
    const uint64_t kind = random() % 10;
    if (kind < 7) {
      const int64_t max_rows = session->MaxRows();
      if (max_rows == 0) {
        REQUIRE(!shape.slides);
        REQUIRE(session->position() == shape.buffer_size);
        continue;
      }
      const bool prefill = random() % 2 == 0;
      const auto wanted =
          prefill ? 1 + static_cast<int64_t>(random() % (2 * shape.buffer_size)) : int64_t{1};
      std::vector<int32_t> ids(static_cast<size_t>(std::min(max_rows, wanted)));
      const int64_t before = session->window_first();
      for (int32_t& id : ids) {
        id = static_cast<int32_t>(random() % 1000);
      }
      const int64_t evicted =
          session->Append(ids, prefill ? Session::Phase::kPrefill : Session::Phase::kDecode);
      REQUIRE(evicted == (shape.window > 0 ? 0 : session->window_first() - before));
      REQUIRE((shape.window == 0 || ObviousWindowFirst(shape, static_cast<int64_t>(text.size())) ==
                                        session->window_first()));
      memory.WipeFree();
      for (const int32_t id : ids) {
        const auto position = static_cast<int64_t>(text.size());
        // One window for all rows of a step, if it is not the model's own.
        REQUIRE(
            (shape.window > 0 || ObviousWindowFirst(shape, position) == session->window_first()));
        memory.Write(session->Slot(position), {position, id});
        REQUIRE((session->SinkSlot(position) >= 0) == (position < shape.sink_size));
        if (session->SinkSlot(position) >= 0) {
          memory.Write(session->SinkSlot(position), {position, id});
        }
        text.push_back(id);
      }
    } else if (kind == 7) {
      session->Commit();
    } else if (kind == 8) {
      const int64_t floor = session->rollback_floor();
      REQUIRE(floor <= session->position());
      // As far back as the keys that the next token would see are there.
      REQUIRE(ObviousWindowFirst(shape, floor) >= session->window_first());
      REQUIRE((floor == 0 || ObviousWindowFirst(shape, floor - 1) < session->window_first()));
      const uint64_t span = static_cast<uint64_t>(session->position() - floor) + 1;
      const int64_t target = floor + static_cast<int64_t>(random() % 3 == 0 ? 0 : random() % span);
      std::vector<BlockCopy> copies;
      session->Rollback(target, copies);
      for (const BlockCopy& copy : copies) {
        memory.Copy(copy);
      }
      memory.WipeFree();
      text.resize(static_cast<size_t>(target));
    } else if (foreign.empty() && session->position() >= shape.block_size) {
      // A sharer of the newest full block.
      const int64_t full_end = session->position() / shape.block_size * shape.block_size;
      if (full_end > session->window_first()) {
        const auto block = static_cast<int32_t>(session->Slot(full_end - 1) / shape.block_size);
        memory.pool().AddOwner(block);
        foreign.push_back(block);
      }
    } else {
      for (const int32_t block : foreign) {
        memory.pool().Release(block);
      }
      foreign.clear();
    }
    CheckContext(*session, shape, memory, text);
    std::vector<int32_t> references = foreign;
    session->CollectBlocks(references);
    REQUIRE(memory.pool().Balances(references));
    REQUIRE(static_cast<int64_t>(references.size() - foreign.size()) <= worst);
  }
  for (const int32_t block : foreign) {
    memory.pool().Release(block);
  }
  session.reset();
  REQUIRE(memory.pool().num_references() == 0);
  REQUIRE(memory.pool().num_free() == memory.pool().num_blocks());
}

TEST_CASE("sessions follow the obvious model under random turns") {
  uint64_t seed = 0;
  for (const int32_t block_size : {1, 2, 8}) {
    for (const int64_t blocks : {1, 2, 5}) {
      for (const int64_t extra : {0, 1}) {
        for (const bool slides : {false, true}) {
          for (const int32_t sink_size : {0, 1, block_size}) {
            for (const int64_t feedback_blocks : {1, 2, 100}) {
              if (sink_size > 0 && !slides) {
                continue;
              }
              const SessionShape shape = {.buffer_size = blocks * block_size + extra,
                                          .block_size = block_size,
                                          .sink_size = sink_size,
                                          .feedback_size = feedback_blocks * block_size,
                                          .slides = slides};
              CAPTURE(block_size, blocks, extra, slides, sink_size, feedback_blocks, seed);
              for (int i = 0; i < 3; ++i) {
                RunRandom({shape, seed++});
              }
            }
          }
        }
      }
    }
  }
}

TEST_CASE("sessions of a model's own window follow the obvious model") {
  uint64_t seed = 0;
  for (const int32_t block_size : {1, 4, 8}) {
    for (const int64_t window : {1, 3, 8, 13}) {
      for (const int32_t step_rows : {1, 5, 16}) {
        CAPTURE(block_size, window, step_rows, seed);
        const SessionShape shape = MakeWindowShape(window, block_size, step_rows, INT64_MAX);
        BlockPool pool(static_cast<int32_t>(WorstCaseBlocks(shape, INT64_MAX).global));
        REQUIRE(Session(shape, INT64_MAX, pool).MaxRows() >= step_rows);
        for (int i = 0; i < 3; ++i) {
          RunRandom({shape, seed++});
        }
      }
    }
  }
}

TEST_CASE("a text that must end ends, whatever its window") {
  const SessionShape shape = MakeWindowShape(5, 4, 3, 20);
  REQUIRE(shape.has_end());
  REQUIRE(shape.max_context() == 20);
  BlockPool pool(static_cast<int32_t>(WorstCaseBlocks(shape, 20).global));
  Session session(shape, 20, pool);
  for (int i = 0; i < 20; ++i) {
    REQUIRE(session.MaxRows() >= 1);
    session.Append(std::vector<int32_t>(1, 1), Session::Phase::kDecode);
  }
  REQUIRE(session.MaxRows() == 0);
  // A short text needs no ring for the whole window.
  REQUIRE(MakeWindowShape(4096, 16, 512, 64).buffer_size == 64);
}

TEST_CASE("the window moves at positions that depend on the position alone") {
  const SessionShape shape = {
      .buffer_size = 32, .block_size = 8, .sink_size = 4, .feedback_size = 32, .slides = true};
  REQUIRE(WindowFirst(shape, 0) == 0);
  REQUIRE(WindowFirst(shape, 31) == 0);
  REQUIRE(WindowFirst(shape, 32) == 8);
  REQUIRE(WindowFirst(shape, 39) == 8);
  REQUIRE(WindowFirst(shape, 40) == 16);
  for (int64_t position = 0; position < 500; ++position) {
    const int64_t visible = position + 1 - WindowFirst(shape, position);
    REQUIRE(visible <= 32);
    REQUIRE((position < 32 || visible > 32 - 8));
  }
  REQUIRE(WorstCaseBlocks(shape, 1).global == 2);
  REQUIRE(WorstCaseBlocks(shape, 9).global == 3);
  REQUIRE(WorstCaseBlocks(shape, 1000).global == 5);
}

TEST_CASE("a turn can be taken back past blocks that left the feedback ring") {
  const SessionShape shape = {.buffer_size = 64, .block_size = 8, .feedback_size = 16};
  BlockPool pool(8);
  Session session(shape, 64, pool);
  session.Append(std::vector<int32_t>(20, 1), Session::Phase::kPrefill);
  session.Commit();
  for (int i = 0; i < 13; ++i) {
    session.Append(std::vector<int32_t>(1, 2), Session::Phase::kDecode);
  }
  REQUIRE(session.num_blocks().global == 5);
  std::vector<BlockCopy> copies;
  session.Rollback(20, copies);
  REQUIRE(copies.empty());
  REQUIRE(session.position() == 20);
  REQUIRE(session.num_blocks().global == 3);
  session.Rollback(0, copies);
  REQUIRE(pool.num_free() == 8);
}

TEST_CASE("a context that does not slide is full at buffer_size") {
  const SessionShape shape = {.buffer_size = 20, .block_size = 8, .feedback_size = 20};
  BlockPool pool(3);
  Session session(shape, 100, pool);
  REQUIRE(session.MaxRows() == 20);
  session.Append(std::vector<int32_t>(19, 1), Session::Phase::kPrefill);
  REQUIRE(session.MaxRows() == 1);
  session.Append(std::vector<int32_t>(1, 1), Session::Phase::kDecode);
  REQUIRE(session.MaxRows() == 0);
}

}  // namespace
}  // namespace ringserve
