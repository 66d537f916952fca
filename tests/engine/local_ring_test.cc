// Sessions whose local layers have a ring of their own: what it holds, how far it can be rolled
// back, and that a turn can be taken back from anywhere.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/support/disk_world.h"
#include "tests/support/session_run.h"

namespace ringserve {
namespace {

constexpr int64_t kWindow = 11;

FakeEngineOptions Local(int64_t buffer_size = 256) {
  FakeEngineOptions options;
  options.shape = {.buffer_size = buffer_size, .block_size = 8, .feedback_size = buffer_size};
  AddLocalRing(kWindow, options.scheduler.prefill_size, options.shape);
  options.device_blocks = static_cast<int32_t>(4 * buffer_size / 8);
  options.local_blocks.num_device = 64;
  return options;
}

int64_t RingBlocks(const SessionShape& shape) {
  return WorstCaseBlocks(shape, INT64_MAX).local;
}

TEST_CASE("the local ring holds two windows and the rows of a step, however long the text") {
  const FakeEngineOptions options = Local(4096);
  // 22 - 1 + 16 rows in blocks of 8, wherever in a block they begin.
  REQUIRE(RingBlocks(options.shape) == 6);
  FakeEngine engine(options);
  const BlockPool& pool = engine.loop().pool();
  const std::string id = engine.Create()->id;
  std::vector<int32_t> text;
  uint64_t request_id = 0;
  int64_t most = 0;
  while (text.size() < 3800) {
    ++request_id;
    GenerateRequest request = TurnRequest(request_id, id, SeededTokens(request_id, 90), 100);
    REQUIRE(engine.loop().Submit(std::move(request)).ok());
    while (engine.Advance()) {
      const int64_t num_blocks = pool.num_references(BlockGroup::kLocal);
      most = std::max(most, num_blocks);
      REQUIRE(num_blocks <= 2 * RingBlocks(options.shape));
    }
    const Transcript got = engine.sink().Take(request_id);
    REQUIRE(got.finished.has_value());
    text.resize(static_cast<size_t>(got.finished->session_position));
    REQUIRE(pool.num_references(BlockGroup::kLocal) <= RingBlocks(options.shape));
    REQUIRE(pool.num_references() == CeilDiv<int64_t>(static_cast<int64_t>(text.size()) - 1, 8));
  }
  REQUIRE(most > RingBlocks(options.shape));  // a turn keeps what it found
  REQUIRE(engine.Close(id).ok());
  REQUIRE(pool.num_references(BlockGroup::kLocal) == 0);
}

TEST_CASE("a window can be rolled back, and the floor is where the ring ends") {
  const FakeEngineOptions options = Local();
  for (int64_t length = 1; length < 120; length += 7) {
    FakeEngine engine(options);
    std::vector<int32_t> text;
    const std::string id = engine.Create()->id;
    CheckTurn(engine,
              TurnRequest(1, id, SeededTokens(3, static_cast<size_t>(length)), 5),
              options.shape,
              text);
    const absl::StatusOr<SessionInfo> info = engine.Get(id);
    const int64_t floor = info->rollback_floor;
    CAPTURE(length, floor, info->position);
    REQUIRE(floor <= std::max<int64_t>(info->position - 1 - kWindow, 0));
    REQUIRE((floor == 0 || floor > info->position - 3 * kWindow - 16 - 8));
    if (floor > 0) {
      REQUIRE(absl::IsInvalidArgument(engine.Rollback(id, floor - 1).status()));
      REQUIRE(absl::IsInvalidArgument(engine.Fork(id, floor - 1).status()));
    }
    uint64_t request_id = 1;
    for (int64_t position = floor; position <= info->position; ++position) {
      const absl::StatusOr<SessionInfo> fork = engine.Fork(id, position);
      REQUIRE(fork.ok());
      std::vector<int32_t> forked(text.begin(), text.begin() + position);
      CheckTurn(engine, TurnRequest(++request_id, fork->id, {7, 9}, 30), options.shape, forked);
      REQUIRE(engine.Close(fork->id).ok());
    }
    for (const int64_t back : {std::max(floor, info->position - kWindow), floor}) {
      REQUIRE(engine.Rollback(id, back).ok());
      text.resize(static_cast<size_t>(back));
      std::vector<int32_t> other = text;
      const std::string fork = engine.Fork(id)->id;
      CheckTurn(engine, TurnRequest(++request_id, fork, {5}, 9), options.shape, other);
      REQUIRE(engine.Close(fork).ok());
    }
    CheckTurn(engine, TurnRequest(++request_id, id, {1, 2, 3}, 40), options.shape, text);
  }
}

// A turn of `num_tokens` that is cancelled when so many were made.
Transcript Interrupted(FakeEngine& engine,
                       GenerateRequest request,
                       size_t num_tokens,
                       int64_t num_delivered) {
  const uint64_t id = request.request_id;
  engine.sink().SetDelivered(id, num_delivered);
  REQUIRE(engine.loop().Submit(std::move(request)).ok());
  while (engine.sink().transcript(id).tokens.size() < num_tokens) {
    REQUIRE(engine.loop().Step());
    REQUIRE(engine.loop().PoolBalances());
  }
  engine.loop().queue().Command({.request_id = id});
  RunUntilIdle(engine);
  Transcript got = engine.sink().transcript(id);
  REQUIRE(got.failed.has_value());
  return got;
}

TEST_CASE("a turn that is taken back leaves the session as it was, however long it has run") {
  for (const bool runs_ahead : {false, true}) {
    for (const size_t before : {0, 5, 16, 33, 70}) {
      for (const size_t num_tokens : {0, 1, 9, 30, 90}) {
        CAPTURE(runs_ahead, before, num_tokens);
        FakeEngineOptions options = Local();
        options.runs_ahead = runs_ahead;
        FakeEngine engine(options);
        const std::string id = engine.Create()->id;
        std::vector<int32_t> text;
        if (before > 0) {
          CheckTurn(engine, TurnRequest(1, id, SeededTokens(2, before), 3), options.shape, text);
        }
        const SessionInfo was = *engine.Get(id);
        const int64_t local_blocks = engine.loop().pool().num_references(BlockGroup::kLocal);
        const Transcript got =
            Interrupted(engine, TurnRequest(2, id, SeededTokens(5, 20), 100), num_tokens, 0);
        REQUIRE(got.failed->session_position == static_cast<int64_t>(text.size()));
        const SessionInfo is = *engine.Get(id);
        REQUIRE(is.position == was.position);
        REQUIRE(is.num_blocks == was.num_blocks);
        REQUIRE(is.rollback_floor == was.rollback_floor);
        REQUIRE(engine.loop().pool().num_references(BlockGroup::kLocal) == local_blocks);
        CheckTurn(engine, TurnRequest(3, id, {4, 4, 2}, 60), options.shape, text);
        REQUIRE(engine.Rollback(id, engine.Get(id)->rollback_floor).ok());
        text.resize(static_cast<size_t>(engine.Get(id)->position));
        CheckTurn(engine, TurnRequest(4, id, {4}, 5), options.shape, text);
      }
    }
  }
}

TEST_CASE("a turn keeps what was delivered, if the client is not far behind") {
  for (const int64_t lag : {0, 1, 8, 11, 60, 79}) {
    CAPTURE(lag);
    const FakeEngineOptions options = Local();
    FakeEngine engine(options);
    const std::string id = engine.Create()->id;
    std::vector<int32_t> text;
    CheckTurn(engine, TurnRequest(1, id, SeededTokens(2, 30), 3), options.shape, text);
    GenerateRequest request =
        TurnRequest(2, id, SeededTokens(5, 20), 100, OnInterrupt::kKeepDelivered);
    const std::vector<int32_t> prompt = request.prompt;
    const Transcript got = Interrupted(engine, std::move(request), 80, 80 - lag);
    if (lag > 3 * kWindow + 8) {
      REQUIRE(got.failed->session_position == static_cast<int64_t>(text.size()));
    } else {
      text.insert(text.end(), prompt.begin(), prompt.end());
      const std::vector<int32_t> made = got.token_ids();
      text.insert(text.end(), made.begin(), made.end() - (lag - (80 - std::ssize(made))));
    }
    REQUIRE(engine.Get(id)->position == static_cast<int64_t>(text.size()));
    CheckTurn(engine, TurnRequest(3, id, {4, 4, 2}, 60), options.shape, text);
  }
}

TEST_CASE("what was admitted finds its local blocks, and who would not waits") {
  FakeEngineOptions options = Local();
  options.local_blocks.num_device = static_cast<int32_t>(2 * RingBlocks(options.shape));
  FakeEngine engine(options);
  std::vector<int32_t> none;
  for (uint64_t id = 1; id <= 4; ++id) {
    REQUIRE(engine.loop().Submit(TurnRequest(id, "", SeededTokens(id, 60), 30)).ok());
  }
  engine.loop().Step();
  REQUIRE(engine.loop().load().running == 2);
  RunUntilIdle(engine);
  for (uint64_t id = 1; id <= 4; ++id) {
    REQUIRE(engine.sink().Take(id).finished.has_value());
  }
  const std::string id = engine.Create()->id;
  std::vector<int32_t> text;
  CheckTurn(engine, TurnRequest(10, id, SeededTokens(1, 60), 3), options.shape, text);
  CheckTurn(engine, TurnRequest(11, id, SeededTokens(1, 60), 3), options.shape, text);
  const int64_t num_held = engine.loop().pool().num_references(BlockGroup::kLocal);
  for (int64_t left = options.local_blocks.num_device - num_held; left >= num_held;
       left -= num_held) {
    REQUIRE(engine.Fork(id).ok());
  }
  REQUIRE(absl::IsResourceExhausted(engine.Fork(id).status()));
  // The forks and the session hold the ring that a turn would need.
  REQUIRE(engine.loop().Submit(TurnRequest(12, id, {1}, 30)).ok());
  RunUntilIdle(engine);
  REQUIRE(absl::IsResourceExhausted(engine.sink().Take(12).failed->status));
}

TEST_CASE("both sizes go to the host and to files, and come back") {
  FakeEngineOptions options = Local(64);
  options.device_blocks = 12;
  options.local_blocks = {.num_device = static_cast<int32_t>(2 * RingBlocks(options.shape)),
                          .num_host = 12};
  options.host_blocks = 12;
  options.sessions.max_sessions = 100;
  DiskWorld world(options);
  FakeEngine& engine = world.engine();
  std::vector<std::string> ids;
  std::vector<std::vector<int32_t>> texts(12);
  uint64_t request_id = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    ids.push_back(engine.Create()->id);
  }
  for (int turn = 0; turn < 3; ++turn) {
    for (size_t i = 0; i < texts.size(); ++i) {
      CheckTurn(engine,
                TurnRequest(++request_id, ids[i], SeededTokens(i + 1, 12), 6),
                options.shape,
                texts[i]);
    }
  }
  REQUIRE(engine.loop().load().disk.num_restored > 0);
  REQUIRE(engine.loop().load().restored_blocks > 0);
}

}  // namespace
}  // namespace ringserve
