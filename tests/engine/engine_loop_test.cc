// What the loop answers to a request.
#include "engine/engine_loop.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/fake_engine.h"
#include "tests/support/session_run.h"

namespace ringserve {
namespace {

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
  Transcript got = engine.sink().transcript(plain.request_id);
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
    const Transcript got = CheckAlone({}, LoneRequest(1, prompt_size, 200));
    REQUIRE(got.finished->reason == FinishReason::kContextFull);
    REQUIRE(got.tokens.size() == 33 - prompt_size);  // the last token needs no place
    REQUIRE(got.progress.size() == (prompt_size - 1) / 16);
    CheckAlone({}, LoneRequest(2, prompt_size, 1));
  }
  REQUIRE(CheckAlone({}, LoneRequest(3, 32, 5)).tokens.size() == 1);
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
        const Transcript got = CheckAlone(options, LoneRequest(1, prompt_size, 150));
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
      GenerateRequest request = LoneRequest(1, 23, 4);
      request.output.prompt_logprobs = true;
      request.output.num_logprobs = 3;
      const Transcript got = CheckAlone(options, request);
      REQUIRE(got.prompt.size() == 22);
      REQUIRE(got.prompt[0].alternatives.size() == 3);
    }
  }
  GenerateRequest single = LoneRequest(1, 1, 2);
  single.output.prompt_logprobs = true;
  REQUIRE(CheckAlone({}, single).prompt.empty());
}

TEST_CASE("stop tokens end the turn, but not before min_tokens") {
  FakeEngineOptions options;
  options.shape.buffer_size = 128;
  GenerateRequest request = LoneRequest(4, 3, 100);
  request.stopping.stop_token_ids = {3, 9, 20};
  const Transcript stopped = CheckAlone(options, request);
  REQUIRE(stopped.finished->reason == FinishReason::kStopToken);
  REQUIRE(stopped.tokens.size() < 100);
  request.stopping.min_tokens = static_cast<int32_t>(stopped.tokens.size()) + 10;
  REQUIRE(CheckAlone(options, request).tokens.size() > stopped.tokens.size() + 9);

  // The model's own end, unless it is an ordinary token.
  GenerateRequest natural = LoneRequest(4, 3, 100);
  natural.stopping.ignore_eos = false;
  natural.sampling.logit_bias = {{0, 3.0F}};
  const Transcript ended = CheckAlone(options, natural);
  REQUIRE(ended.finished->reason == FinishReason::kStopToken);
  REQUIRE(ended.tokens.back().token.token_id == 0);
  natural.stopping.ignore_eos = true;
  REQUIRE(CheckAlone(options, natural).finished->reason == FinishReason::kMaxTokens);
}

TEST_CASE("penalties see prompt and completion") {
  GenerateRequest request = LoneRequest(5, 9, 20);
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
  GenerateRequest request = LoneRequest(1, 4, 20);
  request.stopping.stop_condition = std::make_unique<StopAfter>(6);
  REQUIRE(engine.loop().Submit(std::move(request)).ok());
  RunUntilIdle(engine);
  const Transcript got = engine.sink().transcript(1);
  REQUIRE(got.tokens.size() == 6);
  REQUIRE(got.finished->reason == FinishReason::kStopString);
  REQUIRE(got.finished->stop_index == 7);
}

}  // namespace
}  // namespace ringserve
