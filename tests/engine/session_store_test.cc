// The registry of sessions: whose they are, how long they live, what they may take.
#include "engine/session_store.h"

#include <cstdint>
#include <string>
#include <vector>

#include "tests/support/session_run.h"

namespace ringserve {
namespace {

TEST_CASE("a session is its owner's, and nobody else hears of it") {
  FakeEngine engine({});
  const std::string first = engine.Create({}, "ann")->id;
  const std::string second = engine.Create({}, "ann")->id;
  const std::string other = engine.Create({}, "bob")->id;
  REQUIRE(first != second);
  REQUIRE(engine.Get(first, "ann")->position == 0);
  REQUIRE(engine.List("ann")->size() == 2);
  REQUIRE(engine.List("ann")->front().id == first);
  REQUIRE(engine.List("bob")->front().id == other);
  REQUIRE(engine.List("eve")->empty());
  const absl::Status unknown =
      absl::NotFoundError("session.id: there is no session \"" + other + "\"");
  REQUIRE(engine.Get(other, "ann").status() == unknown);
  REQUIRE(engine.Rollback(other, 0, "ann").status() == unknown);
  REQUIRE(engine.Close(other, "ann").status() == unknown);
  GenerateRequest request = TurnRequest(1, other, {1, 2}, 2);
  request.owner = "ann";
  REQUIRE(engine.loop().Submit(std::move(request)).ok());
  engine.loop().Step();
  REQUIRE(engine.sink().transcript(1).failed->status == unknown);
  REQUIRE(engine.loop().load().sessions == 3);
  REQUIRE(engine.Close(other, "bob")->id == other);
  REQUIRE(absl::IsNotFound(engine.Get(other, "bob").status()));
  REQUIRE(engine.loop().load().sessions == 2);
}

TEST_CASE("ids are not to be guessed") {
  BlockPool pool(1);
  FakeBackend backend(fake::TinyModel());
  KvMemory memory(backend, {}, {}, pool);
  SessionStore store({.shape = {.buffer_size = 16, .block_size = 8, .feedback_size = 16},
                      .limits = {.max_sessions = 100,
                                 .idle_timeout_s = 0,
                                 .share_prefixes = false,
                                 .prefix_groups = {}},
                      .has_room = {},
                      .make_id = {}},
                     pool,
                     memory);
  const std::string first = store.Create("", {}, absl::UnixEpoch())->id;
  const std::string second = store.Create("", {}, absl::UnixEpoch())->id;
  REQUIRE(first.size() == 32);
  REQUIRE(first != second);
}

TEST_CASE("a session may be smaller than the model's, in whole blocks") {
  FakeEngine engine({});
  for (const int64_t size : {-8, 8, 20, 40}) {
    REQUIRE(engine.Create(Sized(size)).status() ==
            absl::InvalidArgumentError(std::string("buffer_size: ").append(std::to_string(size)) +
                                       " is not a multiple of 8 in [16, 32]"));
  }
  REQUIRE(!engine.Create(Timed(absl::Seconds(-1))).ok());
  REQUIRE(!engine.Create({}, std::string(2000, 'x')).ok());
  const SessionInfo info = *engine.Create(Sized(16));
  REQUIRE(info.buffer_size == 16);
  SessionShape shape = engine.options().shape;
  shape.buffer_size = 16;
  std::vector<int32_t> text;
  const Transcript got =
      CheckTurn(engine, TurnRequest(1, info.id, SeededTokens(1, 5), 100), shape, text);
  REQUIRE(got.finished->reason == FinishReason::kContextFull);
  REQUIRE(text.size() == 17);
}

TEST_CASE("there are at most max_sessions") {
  FakeEngineOptions options;
  options.sessions.max_sessions = 2;
  FakeEngine engine(options);
  const std::string first = engine.Create()->id;
  REQUIRE(engine.Create().ok());
  REQUIRE(engine.Create().status() ==
          absl::ResourceExhaustedError(
              "there are 2 sessions, as many as sessions.max_sessions allows"));
  REQUIRE(engine.Close(first).ok());
  REQUIRE(engine.Create().ok());
}

TEST_CASE("idle sessions are forgotten in time, busy ones are not") {
  FakeEngineOptions options;
  options.sessions.idle_timeout_s = 10;
  FakeEngine engine(options);
  const absl::Time start = engine.now();
  const std::string usual = engine.Create()->id;
  const std::string brief = engine.Create(Timed(absl::Seconds(4)))->id;
  const std::string patient = engine.Create(Timed(absl::InfiniteDuration()))->id;
  REQUIRE(engine.loop().NextDeadline() == start + absl::Seconds(4));
  REQUIRE(engine.Get(brief)->expires == start + absl::Seconds(4));
  REQUIRE(engine.Get(patient)->expires == absl::InfiniteFuture());
  engine.Sleep(absl::Seconds(3));
  std::vector<int32_t> text;
  CheckTurn(engine, TurnRequest(1, brief, SeededTokens(1, 5), 2), options.shape, text);
  engine.Sleep(absl::Seconds(3));
  REQUIRE(engine.Get(brief)->expires == start + absl::Seconds(7));
  REQUIRE(engine.loop().Submit(TurnRequest(2, brief, SeededTokens(1, 5), 8)).ok());
  engine.loop().Step();
  engine.loop().queue().Command({.request_id = 2, .kind = RequestCommand::Kind::kPause});
  engine.Sleep(absl::Seconds(30));
  engine.loop().Step();
  REQUIRE(absl::IsNotFound(engine.Get(usual).status()));
  REQUIRE(engine.Get(brief)->is_busy);
  REQUIRE(engine.Get(patient).ok());
  engine.loop().queue().Command({.request_id = 2});
  engine.loop().Step();
  REQUIRE(engine.Get(brief).ok());
  engine.Sleep(absl::Seconds(4));
  engine.loop().Step();
  REQUIRE(absl::IsNotFound(engine.Get(brief).status()));
  REQUIRE(engine.loop().pool().num_references() == 0);
}

TEST_CASE("closing a busy session ends its turn") {
  FakeEngine engine({});
  for (const bool is_running : {false, true}) {
    const std::string id = engine.Create()->id;
    const uint64_t request_id = is_running ? 2 : 1;
    REQUIRE(engine.loop().Submit(TurnRequest(request_id, id, SeededTokens(1, 5), 20)).ok());
    if (is_running) {
      engine.loop().Step();
    }
    REQUIRE(!engine.Close(id)->is_busy);
    REQUIRE(absl::IsCancelled(engine.sink().transcript(request_id).failed->status));
    REQUIRE(absl::IsNotFound(engine.Get(id).status()));
    REQUIRE(engine.loop().pool().num_references() == 0);
  }
}

TEST_CASE("what idle sessions hold is refused to others at once, not after a wait") {
  FakeEngineOptions options;
  options.device_blocks = 5;
  FakeEngine engine(options);
  std::vector<int32_t> text;
  const std::string id = engine.Create()->id;
  CheckTurn(engine, TurnRequest(1, id, SeededTokens(1, 10), 3), options.shape, text);
  REQUIRE(engine.loop().Submit(TurnRequest(2, "", SeededTokens(1, 10), 20)).ok());
  engine.loop().Step();
  const absl::Status status = engine.sink().transcript(2).failed->status;
  REQUIRE(absl::IsResourceExhausted(status));
  REQUIRE(status.message() ==
          "sessions hold 2 of 5 blocks of KV memory, the request may need 4: close some, or give "
          "more memory");
  REQUIRE(engine.loop().Submit(TurnRequest(3, "", SeededTokens(1, 10), 12)).ok());
  RunUntilIdle(engine);
  REQUIRE(engine.sink().transcript(3).finished.has_value());
  // A turn of the session itself needs only what it does not hold.
  CheckTurn(engine, TurnRequest(4, id, SeededTokens(1, 5), 100), options.shape, text);
}

TEST_CASE("calls to an engine that has stopped are answered") {
  FakeEngine engine({});
  engine.loop().queue().Close(absl::UnavailableError("draining"));
  REQUIRE(absl::IsUnavailable(engine.Create().status()));
  REQUIRE(absl::IsUnavailable(engine.List().status()));
}

}  // namespace
}  // namespace ringserve
