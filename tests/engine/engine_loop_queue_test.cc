// Who runs, who waits and for how long.
#include <cstdint>
#include <utility>
#include <vector>

#include "engine/engine_loop.h"
#include "tests/support/catch.h"
#include "tests/support/fake_engine.h"
#include "tests/support/session_run.h"

namespace ringserve {
namespace {

TEST_CASE("deadlines hold while queued, running and paused") {
  FakeEngineOptions options;
  options.scheduler.max_batch = 1;
  FakeEngine engine(options);
  const absl::Time start = engine.now();
  GenerateRequest running = LoneRequest(1, 4, 25);
  running.deadline = start + absl::Seconds(10);
  GenerateRequest queued = LoneRequest(2, 4, 25);
  queued.deadline = start + absl::Seconds(5);
  GenerateRequest impatient = LoneRequest(3, 4, 25);
  impatient.queue_timeout = absl::Seconds(3);
  REQUIRE(engine.loop().Submit(std::move(running)).ok());
  REQUIRE(engine.loop().Submit(std::move(queued)).ok());
  REQUIRE(engine.loop().Submit(std::move(impatient)).ok());
  REQUIRE(engine.loop().Step());
  REQUIRE(engine.loop().NextDeadline() == start + absl::Seconds(3));
  engine.Sleep(absl::Seconds(3));
  engine.loop().Step();
  const Transcript third = engine.sink().transcript(3);
  REQUIRE(absl::IsDeadlineExceeded(third.failed->status));
  REQUIRE(third.failed->status.message() ==
          "queue_timeout: there was no place in the batch within 3s");
  engine.Sleep(absl::Seconds(2));
  engine.loop().Step();
  REQUIRE(engine.sink().transcript(2).failed->status.message() ==
          "the deadline passed while the request was queued");
  engine.loop().queue().Command({.request_id = 1, .kind = RequestCommand::Kind::kPause});
  REQUIRE(!engine.loop().Step());
  REQUIRE(engine.loop().NextDeadline() == start + absl::Seconds(10));
  engine.Sleep(absl::Seconds(5));
  REQUIRE(!engine.loop().Step());
  const Transcript first = engine.sink().transcript(1);
  REQUIRE(absl::IsDeadlineExceeded(first.failed->status));
  REQUIRE(first.failed->status.message() == "the deadline passed after 3 tokens");
  REQUIRE(first.failed->usage.completion_tokens == 3);
  REQUIRE(engine.loop().NextDeadline() == absl::InfiniteFuture());
}

TEST_CASE("a paused sequence keeps its memory and its place in the text") {
  FakeEngineOptions options;
  options.scheduler.max_batch = 1;
  FakeEngine engine(options);
  REQUIRE(engine.loop().Submit(LoneRequest(1, 4, 20)).ok());
  REQUIRE(engine.loop().Submit(LoneRequest(2, 4, 5)).ok());
  engine.loop().Step();
  engine.loop().Step();
  engine.loop().queue().Command({.request_id = 1, .kind = RequestCommand::Kind::kPause});
  RunUntilIdle(engine);
  REQUIRE(engine.sink().transcript(1).tokens.size() == 2);
  REQUIRE(engine.sink().transcript(2).finished.has_value());  // it went past
  REQUIRE(engine.loop().load().running == 1);
  engine.loop().queue().Command({.request_id = 1, .kind = RequestCommand::Kind::kResume});
  RunUntilIdle(engine);
  const Transcript got = engine.sink().transcript(1);
  REQUIRE(got.finished.has_value());
  CheckSame(got.tokens,
            ExpectedAnswer(LoneRequest(1, 4, 20), engine.config(), options.shape).tokens);
}

TEST_CASE("priority decides who is admitted, arrival among equals") {
  FakeEngineOptions options;
  options.scheduler.max_batch = 1;
  FakeEngine engine(options);
  const std::vector<int32_t> priorities = {0, 0, 5, -1, 5};
  for (uint64_t id = 0; id < priorities.size(); ++id) {
    GenerateRequest request = LoneRequest(id, 3, 3);
    request.priority = priorities[id];
    REQUIRE(engine.loop().Submit(std::move(request)).ok());
  }
  RunUntilIdle(engine);
  REQUIRE(engine.sink().TakeEnded() == std::vector<uint64_t>{2, 4, 0, 1, 3});
}

TEST_CASE("what was admitted never lacks memory, what cannot fit waits") {
  FakeEngineOptions options;
  options.device_blocks = 9;  // two whole contexts of four, and one block
  FakeEngine engine(options);
  for (uint64_t id = 0; id < 4; ++id) {
    REQUIRE(engine.loop().Submit(LoneRequest(id, 20, 1000)).ok());
  }
  REQUIRE(engine.loop().Submit(LoneRequest(4, 2, 3)).ok());  // one block: but it is not its turn
  engine.loop().Step();
  REQUIRE(engine.loop().load().running == 2);
  REQUIRE(engine.loop().load().queued == 3);
  RunUntilIdle(engine);
  for (uint64_t id = 0; id < 5; ++id) {
    REQUIRE(engine.sink().transcript(id).finished.has_value());
  }
  options.device_blocks = 3;
  FakeEngine small(options);
  REQUIRE(absl::IsResourceExhausted(small.loop().Submit(LoneRequest(9, 20, 1000))));
  REQUIRE(small.loop().Submit(LoneRequest(9, 20, 5)).ok());
  RunUntilIdle(small);
  REQUIRE(small.sink().transcript(9).finished.has_value());
}

TEST_CASE("a full queue refuses") {
  FakeEngineOptions options;
  options.scheduler.max_batch = 1;
  options.scheduler.max_queue = 2;
  FakeEngine engine(options);
  for (uint64_t id = 0; id < 3; ++id) {
    REQUIRE(engine.loop().Submit(LoneRequest(id, 3, 3)).ok());
  }
  REQUIRE(absl::IsResourceExhausted(engine.loop().Submit(LoneRequest(3, 3, 3))));
  engine.loop().Step();
  REQUIRE(absl::IsResourceExhausted(engine.loop().Submit(LoneRequest(3, 3, 3))));
  RunUntilIdle(engine);
  REQUIRE(engine.loop().Submit(LoneRequest(3, 3, 3)).ok());
  RunUntilIdle(engine);
  REQUIRE(engine.sink().TakeEnded().size() == 4);
}

}  // namespace
}  // namespace ringserve
