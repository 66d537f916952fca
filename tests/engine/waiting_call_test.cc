// Calls on sessions that find too little memory: they wait as long as more can come, in their turn.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/session_run.h"

namespace ringserve {
namespace {

using Answer = std::optional<absl::StatusOr<SessionInfo>>;

// Blocks of 8 tokens, 12 of them; sessions of at most 4, requests of at most 4.
FakeEngineOptions TwelveBlocks() {
  FakeEngineOptions options;
  options.device_blocks = 12;
  return options;
}

// A session with a text of 20 tokens: 3 blocks, the last in part.
struct World {
  explicit World(const FakeEngineOptions& options = TwelveBlocks()) : engine(options) {
    id = engine.Create()->id;
    Extend(id, 17, text);
  }

  void Extend(const std::string& session, size_t num_tokens, std::vector<int32_t>& what) {
    ++last_id;
    CheckTurn(engine,
              TurnRequest(last_id, session, SeededTokens(last_id, num_tokens), 3),
              engine.options().shape,
              what);
  }

  // A request that may come to hold 4 blocks and goes on for some 20 steps.
  uint64_t Occupy() {
    ++last_id;
    REQUIRE(engine.loop().Submit(TurnRequest(last_id, "", SeededTokens(last_id, 8), 24)).ok());
    return last_id;
  }

  // All 9 blocks that the session leaves, and more: the third request waits.
  void Fill() {
    Occupy();
    Occupy();
    engine.loop().Step();
    REQUIRE(engine.loop().load().running == 2);
  }

  void Steps(int count) {
    for (int i = 0; i < count; ++i) {
      engine.loop().Step();
    }
  }

  void Fork(const std::string& session, Answer& answer, const CallOptions& options = {}) {
    engine.loop().ForkSession(
        "", session, std::nullopt, options, [&answer](absl::StatusOr<SessionInfo> got) {
          REQUIRE(!answer.has_value());
          answer = std::move(got);
        });
  }

  FakeEngine engine;
  std::string id;
  std::vector<int32_t> text;
  uint64_t last_id = 0;
};

// 11 blocks: none is left beside two requests and the session.
FakeEngineOptions ElevenBlocks() {
  FakeEngineOptions options = TwelveBlocks();
  options.device_blocks = 11;
  return options;
}

TEST_CASE("a fork waits for what a running request gives back") {
  World world(ElevenBlocks());
  world.Fill();
  Answer fork;
  world.Fork(world.id, fork);
  world.Steps(10);
  REQUIRE(!fork.has_value());
  CHECK(world.engine.loop().load().running == 2);
  RunUntilIdle(world.engine);
  REQUIRE(fork.has_value());
  REQUIRE(fork->ok());
  std::vector<int32_t> copy = world.text;
  world.Extend((*fork)->id, 5, copy);
  world.Extend(world.id, 4, world.text);
}

TEST_CASE("a rollback waits for the block that it needs of its own") {
  World world(TwelveBlocks());
  const std::string fork = world.engine.Fork(world.id, 16)->id;  // shares the first two blocks
  world.Fill();
  REQUIRE(world.engine.Rollback(world.id, 20).ok());  // needs none
  Answer done;
  world.Occupy();  // and one more waits
  world.engine.loop().Step();
  REQUIRE(world.engine.loop().load().queued == 1);
  world.engine.loop().RollbackSession(
      "", world.id, 11, {}, [&](absl::StatusOr<SessionInfo> got) { done = std::move(got); });
  world.Steps(5);
  REQUIRE(!done.has_value());
  RunUntilIdle(world.engine);
  REQUIRE(done.has_value());
  REQUIRE(done->ok());
  CHECK((*done)->position == 11);
  world.text.resize(11);
  world.Extend(world.id, 6, world.text);
  CHECK(world.engine.Get(fork)->position == 16);
}

TEST_CASE("an import waits, and its next turn has the original's bits") {
  World world;
  const std::string bytes = *world.engine.Export(world.id);
  world.Fill();
  auto arriving = world.engine.loop().ImportSession("", {});
  std::optional<absl::Status> added;
  arriving->Add(bytes, [&](absl::Status status) { added = std::move(status); });
  world.Steps(10);
  REQUIRE(!added.has_value());
  RunUntilIdle(world.engine);
  REQUIRE(added.has_value());
  REQUIRE(added->ok());
  Answer info;
  arriving->Finish([&](absl::StatusOr<SessionInfo> got) { info = std::move(got); });
  world.engine.loop().Step();
  REQUIRE(info->ok());
  arriving.reset();
  world.Extend((*info)->id, 5, world.text);
}

TEST_CASE("who cannot be helped by waiting is refused at once") {
  World world;
  std::vector<std::string> others;
  std::vector<int32_t> text;
  for (int i = 0; i < 2; ++i) {
    others.push_back(world.engine.Create()->id);
    text.clear();
    world.Extend(others.back(), 24, text);  // 4 blocks
  }
  const std::string bytes = *world.engine.Export(others[0]);
  // A turn that runs leaves its blocks with its session.
  REQUIRE(world.engine.loop().Submit(TurnRequest(99, world.id, SeededTokens(3, 8), 3)).ok());
  world.engine.loop().Step();
  REQUIRE(world.engine.loop().load().running == 1);
  Answer fork;
  world.Fork(others[0], fork);
  world.engine.loop().Step();
  REQUIRE(fork.has_value());
  CHECK(fork->status() == absl::ResourceExhaustedError(
                              "sessions hold 12 of 12 blocks of KV memory, the call needs 1 more: "
                              "close some, or give more memory"));
  CHECK(world.engine.loop().load().running == 1);
  CHECK(absl::IsResourceExhausted(world.engine.Import(bytes).status()));
}

TEST_CASE("first come, first served: requests and calls that wait for memory") {
  World world(ElevenBlocks());
  world.Fill();
  Answer early;
  Answer late;
  world.Fork(world.id, early);
  const uint64_t between = world.Occupy();
  world.engine.loop().Step();
  world.Fork(world.id, late);
  // It would fit, but others are before it.
  REQUIRE(world.engine.loop().Submit(TurnRequest(100, "", {1}, 1)).ok());
  world.Steps(3);
  CHECK(world.engine.loop().load().running == 2);
  CHECK(!world.engine.sink().is_accepted(100));
  while (!early.has_value()) {
    CHECK(!world.engine.sink().is_accepted(between));
    CHECK(!late.has_value());
    REQUIRE(world.engine.Advance());
  }
  CHECK(early->ok());
  while (!late.has_value()) {
    REQUIRE(world.engine.Advance());
  }
  CHECK(late->ok());
  CHECK(world.engine.sink().is_accepted(between));
  RunUntilIdle(world.engine);
  CHECK(world.engine.sink().Take(between).finished.has_value());
  CHECK(world.engine.sink().Take(100).finished.has_value());
}

TEST_CASE("a call that needs much memory is not starved by requests that need little") {
  World world;
  const std::string bytes = *world.engine.Export(world.id);
  std::vector<int32_t> other;
  world.Extend(world.engine.Create()->id, 29, other);  // 4 blocks: 5 of 12 are left
  auto arriving = world.engine.loop().ImportSession("", {});
  std::optional<absl::Status> added;
  for (uint64_t round = 0; !added.has_value(); ++round) {
    REQUIRE(round < 25);
    REQUIRE(
        world.engine.loop().Submit(TurnRequest(1000 + round, "", SeededTokens(round, 9), 7)).ok());
    if (round == 5) {
      REQUIRE(world.engine.loop().load().running == 2);
      arriving->Add(bytes, [&](absl::Status status) { added = std::move(status); });
    }
    world.Steps(3);
  }
  CHECK(added->ok());
}

TEST_CASE("what needs no memory passes by who waits for some") {
  World world(ElevenBlocks());
  const std::string other = world.engine.Create()->id;
  world.Fill();
  Answer fork;
  world.Fork(world.id, fork);
  world.Steps(2);
  CHECK(world.engine.Fork(other).ok());  // of no text
  CHECK(world.engine.Rollback(other, 0).ok());
  CHECK(world.engine.Fork(world.id, 16).ok());  // whole blocks
  CHECK(!fork.has_value());
  RunUntilIdle(world.engine);
  CHECK(fork->ok());
}

TEST_CASE("a call that waits ends with its deadline, its client, its session, its engine") {
  for (int how = 0; how < 7; ++how) {
    CAPTURE(how);
    World world(ElevenBlocks());
    world.Fill();
    Answer fork;
    const absl::Time deadline =
        how == 0 ? world.engine.now() + absl::Seconds(5) : absl::InfiniteFuture();
    world.Fork(world.id, fork, {.deadline = deadline, .call_id = 7});
    world.Steps(2);
    REQUIRE(!fork.has_value());
    absl::StatusCode code = absl::StatusCode::kOk;
    switch (how) {
      case 0:
        CHECK(world.engine.loop().NextDeadline() == deadline);
        world.engine.Sleep(absl::Seconds(5));
        code = absl::StatusCode::kDeadlineExceeded;
        break;
      case 1:
        world.engine.loop().CancelCall(8);  // nobody's
        world.engine.loop().Step();
        REQUIRE(!fork.has_value());
        world.engine.loop().CancelCall(7);
        code = absl::StatusCode::kCancelled;
        break;
      case 2:
        REQUIRE(world.engine.Close(world.id).ok());
        code = absl::StatusCode::kNotFound;
        break;
      case 3:
        REQUIRE(world.engine.loop().Submit(TurnRequest(100, world.id, {1}, 1)).ok());
        RunUntilIdle(world.engine);
        code = absl::StatusCode::kAborted;
        break;
      case 4:
        world.engine.loop().EndAll(absl::CancelledError("the engine has stopped"));
        code = absl::StatusCode::kCancelled;
        break;
      case 5:
        world.engine.backend().FailAfter(1);
        code = absl::StatusCode::kUnavailable;
        break;
      default:
        // The drain is over.
        world.engine.loop().queue().SetDrainDeadline(world.engine.now() + absl::Seconds(1));
        world.engine.Sleep(absl::Seconds(1));
        code = absl::StatusCode::kUnavailable;
        break;
    }
    world.engine.loop().Step();
    REQUIRE(fork.has_value());
    CHECK(fork->status().code() == code);
    RunUntilIdle(world.engine);
  }
}

TEST_CASE("calls wait in a bounded queue") {
  FakeEngineOptions options = ElevenBlocks();
  options.scheduler.max_queue = 2;
  World world(options);
  world.Fill();
  std::vector<Answer> forks(3);
  for (Answer& fork : forks) {
    world.Fork(world.id, fork);
  }
  world.engine.loop().Step();
  CHECK(!forks[0].has_value());
  CHECK(!forks[1].has_value());
  REQUIRE(forks[2].has_value());
  CHECK(forks[2]->status() ==
        absl::ResourceExhaustedError(
            "2 calls wait for memory or the disk, as many as scheduler.max_queue allows"));
  RunUntilIdle(world.engine);
  CHECK(forks[0]->ok());
  CHECK(forks[1]->ok());
}

TEST_CASE("imports that wait count as transfers, for each holds a piece") {
  FakeEngineOptions options = TwelveBlocks();
  options.scheduler.max_queue = 100;
  World world(options);
  const std::string bytes = *world.engine.Export(world.id);
  world.Fill();
  constexpr size_t kMost = SessionStore::kMaxTransfers;
  std::vector<std::unique_ptr<SessionImport>> arriving;
  std::vector<std::optional<absl::Status>> added(kMost + 1);
  for (std::optional<absl::Status>& answer : added) {
    arriving.push_back(world.engine.loop().ImportSession("", {}));
    arriving.back()->Add(bytes, [&answer](absl::Status status) { answer = std::move(status); });
  }
  world.engine.loop().Step();
  CHECK(world.engine.loop().load().waiting_calls == static_cast<int64_t>(kMost));
  CHECK(!added[kMost - 1].has_value());
  REQUIRE(added[kMost].has_value());
  CHECK(absl::IsResourceExhausted(*added[kMost]));
  RunUntilIdle(world.engine);
  // Three fit beside the session; nothing runs that the others could wait for.
  for (size_t i = 0; i < kMost; ++i) {
    CAPTURE(i);
    REQUIRE(added[i].has_value());
    CHECK(added[i]->ok() == (i < 3));
  }
  CHECK(world.engine.loop().load().waiting_calls == 0);
}

}  // namespace
}  // namespace ringserve
