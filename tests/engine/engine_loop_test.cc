#include "engine/engine_loop.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine_thread.h"
#include "tests/support/catch.h"
#include "tests/support/fake_engine.h"

namespace ringserve {
namespace {

GenerateRequest Request(uint64_t id, size_t prompt_size, int32_t max_tokens) {
  GenerateRequest request;
  request.request_id = id;
  for (size_t i = 0; i < prompt_size; ++i) {
    request.prompt.push_back(static_cast<int32_t>((id * 7 + i * 5) % 31 + 1));
  }
  request.sampling.seed = id;
  request.stopping.max_tokens = max_tokens;
  request.stopping.ignore_eos = true;
  return request;
}

void RunUntilIdle(FakeEngine& engine) {
  for (int i = 0; engine.loop().Step(); ++i) {
    REQUIRE(i < 100000);
    REQUIRE(engine.loop().PoolBalances());
  }
}

void CheckSame(const std::vector<ScoredToken>& got, const std::vector<ScoredToken>& expected) {
  REQUIRE(got.size() == expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    REQUIRE(got[i].token.token_id == expected[i].token.token_id);
    REQUIRE(got[i].token.logprob == expected[i].token.logprob);
    REQUIRE(got[i].alternatives.size() == expected[i].alternatives.size());
    for (size_t k = 0; k < got[i].alternatives.size(); ++k) {
      REQUIRE(got[i].alternatives[k].token_id == expected[i].alternatives[k].token_id);
      REQUIRE(got[i].alternatives[k].logprob == expected[i].alternatives[k].logprob);
    }
  }
}

// Runs the request alone and holds the answer to what it must be.
Transcript CheckAloneOn(const FakeEngineOptions& options, const GenerateRequest& plain) {
  CAPTURE(options.runs_ahead);
  FakeEngine engine(options);
  const Expected expected = ExpectedAnswer(plain, engine.config(), options.shape);
  GenerateRequest request;
  request.request_id = plain.request_id;
  request.prompt = plain.prompt;
  request.sampling = plain.sampling;
  request.stopping.max_tokens = plain.stopping.max_tokens;
  request.stopping.min_tokens = plain.stopping.min_tokens;
  request.stopping.ignore_eos = plain.stopping.ignore_eos;
  request.stopping.stop_token_ids = plain.stopping.stop_token_ids;
  request.output = plain.output;
  REQUIRE(engine.loop().Submit(std::move(request)).ok());
  RunUntilIdle(engine);
  const Transcript got = engine.sink().transcript(plain.request_id);
  REQUIRE(got.finished.has_value());
  CheckSame(got.tokens, expected.tokens);
  CheckSame(got.prompt, expected.prompt);
  REQUIRE(got.finished->reason == expected.reason);
  REQUIRE(got.finished->replay_digest == expected.digest);
  REQUIRE(got.finished->usage.prompt_tokens == static_cast<int64_t>(plain.prompt.size()));
  REQUIRE(got.finished->usage.completion_tokens == static_cast<int64_t>(expected.tokens.size()));
  REQUIRE(got.finished->usage.reprefilled_tokens == 0);
  REQUIRE(got.finished->session_position ==
          static_cast<int64_t>(plain.prompt.size() + expected.tokens.size()));
  REQUIRE(got.notices.size() == expected.notices.size());
  int64_t evicted = 0;
  for (size_t i = 0; i < got.notices.size(); ++i) {
    REQUIRE(got.notices[i].evicted_tokens == expected.notices[i].evicted_tokens);
    REQUIRE(got.notices[i].first_position == expected.notices[i].first_position);
    evicted += got.notices[i].evicted_tokens;
  }
  REQUIRE(got.finished->usage.evicted_tokens == evicted);
  REQUIRE(engine.loop().pool().num_references() == 0);
  const EngineLoad load = engine.loop().load();
  REQUIRE(load.running == 0);
  REQUIRE(load.queued == 0);
  REQUIRE(load.device_blocks_free == options.device_blocks);
  REQUIRE(load.completion_tokens == static_cast<int64_t>(expected.tokens.size()));
  REQUIRE(load.prompt_tokens == static_cast<int64_t>(plain.prompt.size()));
  REQUIRE(load.evicted_tokens == evicted);
  REQUIRE(load.step_time >= load.kernel_time);
  return got;
}

// On a backend that ends each step at once, and on one that runs ahead.
Transcript CheckAlone(FakeEngineOptions options, const GenerateRequest& plain) {
  options.runs_ahead = true;
  CheckAloneOn(options, plain);
  options.runs_ahead = false;
  return CheckAloneOn(options, plain);
}

TEST_CASE("a request is answered as its text alone demands") {
  for (const size_t prompt_size : {1, 7, 8, 9, 16, 17, 31}) {
    CAPTURE(prompt_size);
    const Transcript got = CheckAlone({}, Request(1, prompt_size, 200));
    REQUIRE(got.finished->reason == FinishReason::kContextFull);
    REQUIRE(got.tokens.size() == 33 - prompt_size);  // the last token needs no place
    REQUIRE(got.progress.size() == (prompt_size - 1) / 16);
    CheckAlone({}, Request(2, prompt_size, 1));
  }
  REQUIRE(CheckAlone({}, Request(3, 32, 5)).tokens.size() == 1);
}

TEST_CASE("the context slides with and without sinks") {
  for (const int32_t sink_size : {0, 1, 8}) {
    for (const int64_t extra : {0, 3}) {
      FakeEngineOptions options;
      options.shape = {.buffer_size = 32 + extra,
                       .block_size = 8,
                       .sink_size = sink_size,
                       .feedback_size = 16,
                       .slides = true};
      for (const size_t prompt_size : {5, 32, 33, 100}) {
        CAPTURE(sink_size, extra, prompt_size);
        const Transcript got = CheckAlone(options, Request(1, prompt_size, 150));
        REQUIRE(got.finished->reason == FinishReason::kMaxTokens);
        REQUIRE(!got.notices.empty());
      }
    }
  }
}

TEST_CASE("prompt logprobs come in order, however the prompt is cut") {
  for (const int32_t prefill_size : {1, 7, 16, 64}) {
    for (const int32_t max_logits_rows : {1, 5, 100}) {
      FakeEngineOptions options;
      options.scheduler.prefill_size = prefill_size;
      options.max_logits_rows = max_logits_rows;
      GenerateRequest request = Request(1, 23, 4);
      request.output.prompt_logprobs = true;
      request.output.num_logprobs = 3;
      const Transcript got = CheckAlone(options, request);
      REQUIRE(got.prompt.size() == 22);
      REQUIRE(got.prompt[0].alternatives.size() == 3);
    }
  }
  GenerateRequest single = Request(1, 1, 2);
  single.output.prompt_logprobs = true;
  REQUIRE(CheckAlone({}, single).prompt.empty());
}

TEST_CASE("stop tokens end the turn, but not before min_tokens") {
  FakeEngineOptions options;
  options.shape.buffer_size = 128;
  GenerateRequest request = Request(4, 3, 100);
  request.stopping.stop_token_ids = {3, 9, 20};
  const Transcript stopped = CheckAlone(options, request);
  REQUIRE(stopped.finished->reason == FinishReason::kStopToken);
  REQUIRE(stopped.tokens.size() < 100);
  request.stopping.min_tokens = static_cast<int32_t>(stopped.tokens.size()) + 10;
  REQUIRE(CheckAlone(options, request).tokens.size() > stopped.tokens.size() + 9);

  // The model's own end, unless it is an ordinary token.
  GenerateRequest natural = Request(4, 3, 100);
  natural.stopping.ignore_eos = false;
  natural.sampling.logit_bias = {{0, 3.0F}};
  const Transcript ended = CheckAlone(options, natural);
  REQUIRE(ended.finished->reason == FinishReason::kStopToken);
  REQUIRE(ended.tokens.back().token.token_id == 0);
  natural.stopping.ignore_eos = true;
  REQUIRE(CheckAlone(options, natural).finished->reason == FinishReason::kMaxTokens);
}

TEST_CASE("penalties see prompt and completion") {
  GenerateRequest request = Request(5, 9, 20);
  request.sampling.repetition_penalty = 1.5F;
  request.sampling.presence_penalty = 0.5F;
  request.sampling.frequency_penalty = 0.25F;
  request.sampling.top_k = 5;
  const Transcript with = CheckAlone({}, request);
  request.sampling = SamplingParams();
  request.sampling.top_k = 5;
  request.sampling.seed = 5;
  REQUIRE(with.token_ids() != CheckAlone({}, request).token_ids());
}

class StopAfter final : public StopCondition {
 public:
  explicit StopAfter(int32_t count) : left_(count) {}

  std::optional<int32_t> OnToken(int32_t /*token_id*/) override {
    return --left_ == 0 ? std::optional<int32_t>(7) : std::nullopt;
  }

 private:
  int32_t left_;
};

TEST_CASE("a stop condition ends the turn and is named") {
  FakeEngine engine({});
  GenerateRequest request = Request(1, 4, 20);
  request.stopping.stop_condition = std::make_unique<StopAfter>(6);
  REQUIRE(engine.loop().Submit(std::move(request)).ok());
  RunUntilIdle(engine);
  const Transcript got = engine.sink().transcript(1);
  REQUIRE(got.tokens.size() == 6);
  REQUIRE(got.finished->reason == FinishReason::kStopString);
  REQUIRE(got.finished->stop_index == 7);
}

TEST_CASE("a cancel frees everything within one step, wherever the request is") {
  FakeEngine engine({.runs_ahead = GENERATE(false, true)});
  for (uint64_t id = 0; id < 6; ++id) {  // four run, two wait
    REQUIRE(engine.loop().Submit(Request(id, 20, 10)).ok());
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
  REQUIRE(engine.loop().Submit(Request(50, 5, 5)).ok());
  engine.loop().queue().Command({.request_id = 50});
  REQUIRE(!engine.loop().Step());
  REQUIRE(absl::IsCancelled(engine.sink().transcript(50).failed->status));
}

TEST_CASE("a cancel that comes while the last token is made wins") {
  FakeEngine engine({.runs_ahead = GENERATE(false, true)});
  REQUIRE(engine.loop().Submit(Request(1, 4, 3)).ok());
  while (engine.sink().transcript(1).tokens.size() < 2) {
    engine.loop().Step();
  }
  engine.loop().queue().Command({.request_id = 1});
  engine.loop().Step();
  REQUIRE(absl::IsCancelled(engine.sink().transcript(1).failed->status));
  // And one that comes within the very step.
  REQUIRE(engine.loop().Submit(Request(2, 4, 1)).ok());
  REQUIRE(engine.loop().Submit(Request(3, 4, 1)).ok());
  engine.backend().OnSample([&] { engine.loop().queue().Command({.request_id = 2}); });
  RunUntilIdle(engine);
  REQUIRE(absl::IsCancelled(engine.sink().transcript(2).failed->status));
  REQUIRE(engine.sink().transcript(3).finished.has_value());
  REQUIRE(engine.loop().pool().num_references() == 0);
}

TEST_CASE("deadlines hold while queued, running and paused") {
  FakeEngineOptions options;
  options.scheduler.max_batch = 1;
  FakeEngine engine(options);
  const absl::Time start = engine.now();
  GenerateRequest running = Request(1, 4, 25);
  running.deadline = start + absl::Seconds(10);
  GenerateRequest queued = Request(2, 4, 25);
  queued.deadline = start + absl::Seconds(5);
  GenerateRequest impatient = Request(3, 4, 25);
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
  REQUIRE(engine.loop().Submit(Request(1, 4, 20)).ok());
  REQUIRE(engine.loop().Submit(Request(2, 4, 5)).ok());
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
  CheckSame(got.tokens, ExpectedAnswer(Request(1, 4, 20), engine.config(), options.shape).tokens);
}

TEST_CASE("priority decides who is admitted, arrival among equals") {
  FakeEngineOptions options;
  options.scheduler.max_batch = 1;
  FakeEngine engine(options);
  const std::vector<int32_t> priorities = {0, 0, 5, -1, 5};
  for (uint64_t id = 0; id < priorities.size(); ++id) {
    GenerateRequest request = Request(id, 3, 3);
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
    REQUIRE(engine.loop().Submit(Request(id, 20, 1000)).ok());
  }
  REQUIRE(engine.loop().Submit(Request(4, 2, 3)).ok());  // one block: but it is not its turn
  engine.loop().Step();
  REQUIRE(engine.loop().load().running == 2);
  REQUIRE(engine.loop().load().queued == 3);
  RunUntilIdle(engine);
  for (uint64_t id = 0; id < 5; ++id) {
    REQUIRE(engine.sink().transcript(id).finished.has_value());
  }
  options.device_blocks = 3;
  FakeEngine small(options);
  REQUIRE(absl::IsResourceExhausted(small.loop().Submit(Request(9, 20, 1000))));
  REQUIRE(small.loop().Submit(Request(9, 20, 5)).ok());
  RunUntilIdle(small);
  REQUIRE(small.sink().transcript(9).finished.has_value());
}

TEST_CASE("a full queue refuses") {
  FakeEngineOptions options;
  options.scheduler.max_batch = 1;
  options.scheduler.max_queue = 2;
  FakeEngine engine(options);
  for (uint64_t id = 0; id < 3; ++id) {
    REQUIRE(engine.loop().Submit(Request(id, 3, 3)).ok());
  }
  REQUIRE(absl::IsResourceExhausted(engine.loop().Submit(Request(3, 3, 3))));
  engine.loop().Step();
  REQUIRE(absl::IsResourceExhausted(engine.loop().Submit(Request(3, 3, 3))));
  RunUntilIdle(engine);
  REQUIRE(engine.loop().Submit(Request(3, 3, 3)).ok());
  RunUntilIdle(engine);
  REQUIRE(engine.sink().TakeEnded().size() == 4);
}

TEST_CASE("a device fault ends everything with a status and frees the pool") {
  FakeEngine probe({});
  REQUIRE(probe.loop().Submit(Request(1, 20, 3)).ok());
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
      REQUIRE(engine.loop().Submit(Request(id, 20, 10)).ok());
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
    REQUIRE(absl::IsUnavailable(engine.loop().Submit(Request(9, 3, 3))));
  }
}

TEST_CASE("logits that are no numbers fail their request alone") {
  FakeEngine engine({.runs_ahead = GENERATE(false, true)});
  for (uint64_t id = 0; id < 3; ++id) {
    REQUIRE(engine.loop().Submit(Request(id, 4, 10)).ok());
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
    CheckSame(got.tokens,
              ExpectedAnswer(Request(id, 4, 10), engine.config(), engine.options().shape).tokens);
  }
  REQUIRE(engine.loop().load().healthy);
  // Also where a prompt is scored.
  GenerateRequest scored = Request(7, 6, 10);
  scored.output.prompt_logprobs = true;
  REQUIRE(engine.loop().Submit(std::move(scored)).ok());
  engine.backend().PoisonLogitsRow(2);
  RunUntilIdle(engine);
  REQUIRE(absl::IsInternal(engine.sink().transcript(7).failed->status));
  REQUIRE(engine.loop().pool().num_references() == 0);
}

TEST_CASE("draining lets live requests end until its deadline") {
  FakeEngine engine({});
  REQUIRE(engine.loop().Submit(Request(1, 4, 3)).ok());
  REQUIRE(engine.loop().Submit(Request(2, 4, 25)).ok());
  engine.loop().Step();
  engine.loop().queue().Close(absl::UnavailableError("draining"));
  engine.loop().queue().SetDrainDeadline(engine.now() + absl::Seconds(1));
  REQUIRE(absl::IsUnavailable(engine.loop().Submit(Request(3, 4, 3))));
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
              engine.loop().Submit(Request(id, 1 + id % 40, is_endless ? 1 << 30 : 20));
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
    REQUIRE(engine.loop().Submit(Request(1000, 4, 1 << 30)).ok());
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
        const GenerateRequest request = Request(id + i, 1 + (id + i) % 40, 20);
        CheckSame(got.tokens, ExpectedAnswer(request, engine.config(), options.shape).tokens);
      }
    }
  }
  REQUIRE(engine.loop().pool().num_references() == 0);
}

}  // namespace
}  // namespace ringserve
