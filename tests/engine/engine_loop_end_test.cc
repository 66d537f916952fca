// How requests end before their answer does: cancels, faults, draining, the end of the engine.
#include <cstdint>
#include <cstdlib>
#include <thread>
#include <vector>

#include "engine/engine_loop.h"
#include "engine/engine_thread.h"
#include "tests/support/catch.h"
#include "tests/support/fake_engine.h"
#include "tests/support/session_run.h"

namespace ringserve {
namespace {

TEST_CASE("a cancel frees everything within one step, wherever the request is") {
  FakeEngine engine({.runs_ahead = GENERATE(false, true)});
  for (uint64_t id = 0; id < 6; ++id) {  // four run, two wait
    REQUIRE(engine.loop().Submit(LoneRequest(id, 20, 10)).ok());
  }
  engine.loop().Step();
  engine.loop().queue().Command({.request_id = 1, .kind = RequestCommand::Kind::kPause});
  engine.loop().Step();
  for (const uint64_t id : {0, 1, 5, 99}) {
    engine.loop().queue().Command({.request_id = id});
  }
  const int64_t held = engine.loop().pool().num_references();
  engine.loop().Step();
  REQUIRE(engine.loop().pool().num_references() < held);
  for (const uint64_t id : {0, 1, 5}) {
    const Transcript got = engine.sink().transcript(id);
    REQUIRE(got.failed.has_value());
    REQUIRE(absl::IsCancelled(got.failed->status));
    REQUIRE(got.failed->usage.prompt_tokens == 20);
  }
  REQUIRE(!engine.sink().transcript(5).accepted.has_value());
  RunUntilIdle(engine);
  for (const uint64_t id : {2, 3, 4}) {
    REQUIRE(engine.sink().transcript(id).finished.has_value());
  }
  REQUIRE(engine.loop().pool().num_references() == 0);
  // Submitted and cancelled before the engine looks.
  REQUIRE(engine.loop().Submit(LoneRequest(50, 5, 5)).ok());
  engine.loop().queue().Command({.request_id = 50});
  REQUIRE(!engine.loop().Step());
  REQUIRE(absl::IsCancelled(engine.sink().transcript(50).failed->status));
}

TEST_CASE("a cancel that comes while the last token is made wins") {
  FakeEngine engine({.runs_ahead = GENERATE(false, true)});
  REQUIRE(engine.loop().Submit(LoneRequest(1, 4, 3)).ok());
  while (engine.sink().transcript(1).tokens.size() < 2) {
    engine.loop().Step();
  }
  engine.loop().queue().Command({.request_id = 1});
  engine.loop().Step();
  REQUIRE(absl::IsCancelled(engine.sink().transcript(1).failed->status));
  // And one that comes within the very step.
  REQUIRE(engine.loop().Submit(LoneRequest(2, 4, 1)).ok());
  REQUIRE(engine.loop().Submit(LoneRequest(3, 4, 1)).ok());
  engine.backend().OnSample([&] { engine.loop().queue().Command({.request_id = 2}); });
  RunUntilIdle(engine);
  REQUIRE(absl::IsCancelled(engine.sink().transcript(2).failed->status));
  REQUIRE(engine.sink().transcript(3).finished.has_value());
  REQUIRE(engine.loop().pool().num_references() == 0);
}

TEST_CASE("a device fault ends everything with a status and frees the pool") {
  FakeEngine probe({});
  REQUIRE(probe.loop().Submit(LoneRequest(1, 20, 3)).ok());
  const int64_t before = probe.backend().num_calls();
  probe.loop().Step();
  const int64_t calls_per_step = probe.backend().num_calls() - before;
  REQUIRE(calls_per_step > 10);
  for (int64_t call = 0; call < 4 * calls_per_step; ++call) {
    CAPTURE(call);
    FakeEngineOptions options;
    options.runs_ahead = call % 2 != 0;
    options.scheduler.max_batch = 2;
    FakeEngine engine(options);
    for (uint64_t id = 0; id < 4; ++id) {
      REQUIRE(engine.loop().Submit(LoneRequest(id, 20, 10)).ok());
    }
    engine.backend().FailAfter(call / 2);
    REQUIRE(engine.loop().load().healthy);
    RunUntilIdle(engine);
    for (uint64_t id = 0; id < 4; ++id) {
      const Transcript got = engine.sink().transcript(id);
      REQUIRE(got.failed.has_value());
      REQUIRE((id < 2 ? absl::IsInternal(got.failed->status)
                      : absl::IsUnavailable(got.failed->status)));
      REQUIRE(got.failed->status.message() == "the device failed: INTERNAL: injected fault");
    }
    REQUIRE(!engine.loop().load().healthy);
    REQUIRE(engine.loop().pool().num_references() == 0);
    REQUIRE(absl::IsUnavailable(engine.loop().Submit(LoneRequest(9, 3, 3))));
  }
}

TEST_CASE("logits that are no numbers fail their request alone") {
  FakeEngine engine({.runs_ahead = GENERATE(false, true)});
  for (uint64_t id = 0; id < 3; ++id) {
    REQUIRE(engine.loop().Submit(LoneRequest(id, 4, 10)).ok());
  }
  engine.loop().Step();
  engine.backend().PoisonLogitsRow(1);
  RunUntilIdle(engine);
  const Transcript bad = engine.sink().transcript(1);
  REQUIRE(absl::IsInternal(bad.failed->status));
  REQUIRE(bad.failed->status.message() ==
          "no token can be chosen: the model's logits are not finite");
  REQUIRE(bad.tokens.size() <= 1);
  for (const uint64_t id : {0, 2}) {
    const Transcript got = engine.sink().transcript(id);
    CheckSame(
        got.tokens,
        ExpectedAnswer(LoneRequest(id, 4, 10), engine.config(), engine.options().shape).tokens);
  }
  REQUIRE(engine.loop().load().healthy);
  // Also where a prompt is scored.
  GenerateRequest scored = LoneRequest(7, 6, 10);
  scored.output.prompt_logprobs = true;
  REQUIRE(engine.loop().Submit(std::move(scored)).ok());
  engine.backend().PoisonLogitsRow(2);
  RunUntilIdle(engine);
  REQUIRE(absl::IsInternal(engine.sink().transcript(7).failed->status));
  REQUIRE(engine.loop().pool().num_references() == 0);
}

TEST_CASE("draining lets live requests end until its deadline") {
  FakeEngine engine({});
  REQUIRE(engine.loop().Submit(LoneRequest(1, 4, 3)).ok());
  REQUIRE(engine.loop().Submit(LoneRequest(2, 4, 25)).ok());
  engine.loop().Step();
  engine.loop().queue().Close(absl::UnavailableError("draining"));
  engine.loop().queue().SetDrainDeadline(engine.now() + absl::Seconds(1));
  REQUIRE(absl::IsUnavailable(engine.loop().Submit(LoneRequest(3, 4, 3))));
  for (int i = 0; i < 5; ++i) {
    engine.loop().Step();
  }
  REQUIRE(engine.sink().transcript(1).finished.has_value());
  REQUIRE(engine.loop().NextDeadline() == engine.now() + absl::Seconds(1));
  engine.Sleep(absl::Seconds(1));
  REQUIRE(!engine.loop().Step());
  REQUIRE(absl::IsUnavailable(engine.sink().transcript(2).failed->status));
  engine.loop().queue().AwaitIdle();
}

TEST_CASE("a thread steps the loop, sleeps, and ends what is live when it stops") {
  FakeEngineOptions options;
  options.shape = {
      .buffer_size = 32, .block_size = 8, .sink_size = 2, .feedback_size = 32, .slides = true};
  options.scheduler.max_queue = 100;
  FakeEngine engine(options);
  {
    EngineThread thread(engine.loop());
    std::vector<std::thread> callers;
    for (uint64_t caller = 0; caller < 4; ++caller) {
      callers.emplace_back([&engine, caller] {
        for (uint64_t i = 0; i < 10; ++i) {
          const uint64_t id = caller * 100 + i;
          const bool is_endless = i % 3 == 0;
          const absl::Status submitted =
              engine.loop().Submit(LoneRequest(id, 1 + id % 40, is_endless ? 1 << 30 : 20));
          if (!submitted.ok()) {
            std::abort();
          }
          if (is_endless) {
            engine.sink().AwaitTokens(id, 50);
            engine.loop().queue().Command({.request_id = id});
          } else if (i % 3 == 1) {
            engine.loop().queue().Command({.request_id = id, .kind = RequestCommand::Kind::kPause});
            engine.loop().queue().Command(
                {.request_id = id, .kind = RequestCommand::Kind::kResume});
          }
          engine.sink().AwaitEnd(id);
          static_cast<void>(engine.loop().load().running);
        }
      });
    }
    for (std::thread& caller : callers) {
      caller.join();
    }
    REQUIRE(engine.loop().Submit(LoneRequest(1000, 4, 1 << 30)).ok());
    engine.sink().AwaitTokens(1000, 5);
  }
  REQUIRE(absl::IsCancelled(engine.sink().transcript(1000).failed->status));
  REQUIRE(engine.sink().TakeEnded().size() == 41);
  for (uint64_t id = 0; id < 400; id += 100) {
    for (uint64_t i = 0; i < 10; ++i) {
      const Transcript got = engine.sink().transcript(id + i);
      if (i % 3 == 0) {
        REQUIRE(absl::IsCancelled(got.failed->status));
      } else {
        const GenerateRequest request = LoneRequest(id + i, 1 + (id + i) % 40, 20);
        CheckSame(got.tokens, ExpectedAnswer(request, engine.config(), options.shape).tokens);
      }
    }
  }
  REQUIRE(engine.loop().pool().num_references() == 0);
}

}  // namespace
}  // namespace ringserve
