// Requests whose tokens are given: continuations are scored as an echoed prompt would be, the
// prompt that they share is read once, embeddings are those of the text; whatever the batch, the
// steps and the memory.
#include <bit>
#include <cmath>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/reading_requests.h"
#include "tests/support/session_run.h"

namespace ringserve {
namespace {

using Tokens = std::vector<int32_t>;

FakeEngineOptions Options(bool slides) {
  FakeEngineOptions options;
  options.shape = slides ? SessionShape{.buffer_size = 32,
                                        .block_size = 8,
                                        .sink_size = 3,
                                        .feedback_size = 32,
                                        .slides = true}
                         : SessionShape{.buffer_size = 64, .block_size = 8, .feedback_size = 64};
  options.scheduler.max_queue = 32;
  return options;
}

// What the echo of prompt and continuation says of the continuation.
std::vector<ScoredToken> Echo(const FakeEngine& engine,
                              const SessionShape& shape,
                              const Tokens& prompt,
                              const Tokens& continuation) {
  GenerateRequest whole;
  whole.prompt = prompt;
  whole.prompt.insert(whole.prompt.end(), continuation.begin(), continuation.end());
  whole.output = {.num_logprobs = 1, .prompt_logprobs = true};
  whole.stopping.max_tokens = 1;
  std::vector<ScoredToken> echo = ExpectedAnswer(whole, engine.config(), shape).prompt;
  echo.erase(echo.begin(), echo.begin() + static_cast<std::ptrdiff_t>(prompt.size()) - 1);
  return echo;
}

void CheckScore(const FakeEngine& engine,
                const SessionShape& shape,
                const Transcript& got,
                const Tokens& prompt,
                const Tokens& continuation) {
  INFO((got.failed.has_value() ? got.failed->status.ToString() : "finished"));
  REQUIRE(got.finished.has_value());
  const std::vector<ScoredToken> expected = Echo(engine, shape, prompt, continuation);
  CheckSame(got.tokens, expected);
  ReplayDigest digest;
  for (size_t i = 0; i < expected.size(); ++i) {
    digest.Add(expected[i].token.token_id, expected[i].token.logprob);
    REQUIRE(got.tokens[i].alternatives.size() == 1);
    REQUIRE(got.tokens[i].alternatives[0].token_id == expected[i].alternatives[0].token_id);
  }
  REQUIRE(got.finished->reason == FinishReason::kRead);
  REQUIRE(got.finished->replay_digest == digest.value());
  REQUIRE(got.finished->usage.prompt_tokens == static_cast<int64_t>(prompt.size()));
  REQUIRE(got.finished->usage.completion_tokens == static_cast<int64_t>(continuation.size()));
  REQUIRE(got.finished->session_position ==
          static_cast<int64_t>(prompt.size() + continuation.size()));
}

std::vector<Tokens> SomeContinuations(uint64_t seed) {
  std::vector<Tokens> continuations;
  for (const size_t length : {3, 1, 9, 1, 12}) {
    continuations.push_back(SeededTokens(seed++, length));
  }
  return continuations;
}

TEST_CASE("given continuations are scored as an echo would, and share one reading of the prompt") {
  const bool slides = GENERATE(false, true);
  const bool runs_ahead = GENERATE(false, true);
  for (const int32_t prefill_size : {1, 7, 64}) {
    for (const int32_t max_batch : {1, 2, 8}) {
      for (const size_t length : {1, 8, 9, 21, 45}) {
        CAPTURE(slides, runs_ahead, prefill_size, max_batch, length);
        FakeEngineOptions options = Options(slides);
        options.runs_ahead = runs_ahead;
        options.scheduler.prefill_size = prefill_size;
        options.scheduler.max_batch = max_batch;
        FakeEngine engine(options);
        const Tokens prompt = SeededTokens(length, length);
        const std::vector<Tokens> continuations = SomeContinuations(length);
        REQUIRE(engine.loop().Submit(ScoreRequest(10, prompt, continuations)).ok());
        RunUntilIdle(engine);
        int64_t cached = 0;
        for (size_t i = 0; i < continuations.size(); ++i) {
          CAPTURE(i);
          const Transcript got = engine.sink().transcript(10 + i);
          CheckScore(engine, options.shape, got, prompt, continuations[i]);
          cached += got.finished->usage.cached_tokens;
        }
        if (!slides || length + 12 <= 32) {
          const auto shared = static_cast<int64_t>(length) - 1;
          REQUIRE(cached == 4 * shared);
          REQUIRE(engine.loop().load().prompt_tokens == shared + 5);
        }
        REQUIRE(engine.loop().load().completion_tokens == 26);
        REQUIRE(engine.loop().pool().num_references() == 0);
      }
    }
  }
}

TEST_CASE("the completion that a request made has the digest of its score") {
  FakeEngine engine(Options(false));
  const Tokens prompt = SeededTokens(3, 13);
  GenerateRequest request = TurnRequest(1, "", prompt, 20);
  request.output.num_logprobs = 1;
  REQUIRE(engine.loop().Submit(std::move(request)).ok());
  RunUntilIdle(engine);
  const Transcript made = engine.sink().transcript(1);
  REQUIRE(engine.loop().Submit(ScoreRequest(2, prompt, {made.token_ids()})).ok());
  RunUntilIdle(engine);
  const Transcript scored = engine.sink().transcript(2);
  CheckSame(scored.tokens, made.tokens);
  REQUIRE(scored.finished->replay_digest == made.finished->replay_digest);
  REQUIRE(scored.finished->session_position == made.finished->session_position);
}

TEST_CASE("where memory has no room for a leader that waits, its siblings read for themselves") {
  FakeEngineOptions options = Options(false);
  const int32_t num_blocks = GENERATE(7, 8, 11);
  options.device_blocks = num_blocks;
  FakeEngine engine(options);
  const Tokens prompt = SeededTokens(5, 24);
  const std::vector<Tokens> continuations = {
      SeededTokens(1, 32), SeededTokens(2, 30), SeededTokens(3, 33), SeededTokens(4, 1)};
  REQUIRE(engine.loop().Submit(ScoreRequest(10, prompt, continuations)).ok());
  engine.loop().Step();
  // One that is more urgent than the siblings and needs all of the memory.
  GenerateRequest urgent = TurnRequest(1, "", SeededTokens(6, 20), 37);
  urgent.priority = 1;
  REQUIRE(engine.loop().Submit(std::move(urgent)).ok());
  RunUntilIdle(engine);
  REQUIRE(engine.sink().transcript(1).finished.has_value());
  for (size_t i = 0; i < continuations.size(); ++i) {
    CheckScore(engine, options.shape, engine.sink().transcript(10 + i), prompt, continuations[i]);
  }
  REQUIRE(engine.loop().pool().num_references() == 0);
}

TEST_CASE("a leader whose siblings are cancelled while they wait goes on") {
  FakeEngineOptions options = Options(false);
  options.scheduler.max_batch = 1;
  FakeEngine engine(options);
  const Tokens prompt = SeededTokens(5, 9);
  REQUIRE(engine.loop().Submit(TurnRequest(1, "", SeededTokens(2, 4), 30)).ok());
  REQUIRE(engine.loop()
              .Submit(ScoreRequest(10, prompt, {SeededTokens(1, 3), SeededTokens(2, 2)}))
              .ok());
  engine.loop().queue().Command({.request_id = 11, .kind = RequestCommand::Kind::kCancel});
  RunUntilIdle(engine);
  REQUIRE(engine.sink().transcript(11).failed->status.code() == absl::StatusCode::kCancelled);
  CheckScore(engine, options.shape, engine.sink().transcript(10), prompt, SeededTokens(1, 3));
}

// What is pooled of the text on the fake backend: its first element.
double FirstOfEmbedding(const FakeEngine& engine,
                        const SessionShape& shape,
                        const Tokens& input,
                        Pooling pooling) {
  FakeText text(engine.config(), shape, FakeEngine::embedding());
  double sum = 0;
  for (const int32_t token_id : input) {
    text.Push(token_id);
    sum = pooling == Pooling::kMean ? sum + static_cast<double>(text.hidden())
                                    : static_cast<double>(text.hidden());
  }
  return pooling == Pooling::kMean ? sum / static_cast<double>(input.size()) : sum;
}

TEST_CASE("embeddings are those of their texts, and one that is not finite is an error") {
  const bool slides = GENERATE(false, true);
  const bool runs_ahead = GENERATE(false, true);
  const Pooling pooling = GENERATE(Pooling::kLastToken, Pooling::kMean);
  int64_t num_finite = 0;
  for (const int32_t prefill_size : {1, 7, 64}) {
    FakeEngineOptions options = Options(slides);
    options.runs_ahead = runs_ahead;
    options.scheduler.prefill_size = prefill_size;
    FakeEngine engine(options);
    std::vector<Tokens> inputs;
    for (const size_t length : {1, 5, 8, 17, 33, 40}) {
      inputs.push_back(SeededTokens(length, length));
    }
    REQUIRE(engine.loop().Submit(EmbedRequest(10, inputs, {.pooling = pooling})).ok());
    RunUntilIdle(engine);
    for (size_t i = 0; i < inputs.size(); ++i) {
      CAPTURE(slides, runs_ahead, prefill_size, i);
      const Transcript got = engine.sink().transcript(10 + i);
      const auto expected =
          static_cast<float>(FirstOfEmbedding(engine, options.shape, inputs[i], pooling));
      if (!std::isfinite(expected)) {
        REQUIRE(got.failed->status.code() == absl::StatusCode::kInternal);
        continue;
      }
      ++num_finite;
      INFO((got.failed.has_value() ? got.failed->status.ToString() : "finished"));
      REQUIRE(got.finished.has_value());
      REQUIRE(got.embedding.size() == 8);
      REQUIRE(got.embedding[0] == expected);
      REQUIRE(got.finished->usage.completion_tokens == 0);
      REQUIRE(got.finished->usage.cached_tokens == 0);
      REQUIRE(got.finished->session_position == static_cast<int64_t>(inputs[i].size()));
    }
    REQUIRE(engine.loop().pool().num_references() == 0);
  }
  REQUIRE(num_finite > 9);
}

TEST_CASE("a normalised embedding has length one") {
  FakeEngine engine(Options(false));
  REQUIRE(engine.loop()
              .Submit(EmbedRequest(
                  1, {SeededTokens(4, 12)}, {.pooling = Pooling::kMean, .normalize = true}))
              .ok());
  RunUntilIdle(engine);
  double squares = 0;
  for (const float value : engine.sink().transcript(1).embedding) {
    squares += static_cast<double>(value) * static_cast<double>(value);
  }
  REQUIRE(std::abs(squares - 1) < 1e-6);
}

TEST_CASE("what reads and what generates share batches, cancels and a small pool") {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    FakeEngineOptions options = Options(seed % 2 == 1);
    options.runs_ahead = seed % 3 == 1;
    options.scheduler.max_batch = 1 + static_cast<int32_t>(random() % 4);
    options.scheduler.prefill_size = 1 + static_cast<int32_t>(random() % 20);
    options.scheduler.max_queue = 40;
    options.device_blocks = 8 + static_cast<int32_t>(random() % 12);
    options.host_blocks = seed % 4 == 2 ? 16 : 0;
    options.sessions.share_prefixes = seed % 5 == 3;
    FakeEngine engine(options);
    std::map<uint64_t, std::pair<Tokens, Tokens>> scores;
    std::map<uint64_t, GenerateRequest> made;
    uint64_t next_id = 1;
    for (int round = 0; round < 12; ++round) {
      const uint64_t first = next_id;
      const Tokens prompt = SeededTokens(random() % 5, 1 + random() % 30);
      if (random() % 2 == 0) {
        std::vector<Tokens> continuations;
        for (uint64_t i = 1 + random() % 5; i > 0; --i) {
          continuations.push_back(SeededTokens(random() % 9, 1 + random() % 10));
          scores[next_id++] = {prompt, continuations.back()};
        }
        REQUIRE(engine.loop().Submit(ScoreRequest(first, prompt, continuations)).ok());
      } else {
        GenerateRequest request =
            TurnRequest(next_id++, "", prompt, 1 + static_cast<int32_t>(random() % 20));
        request.priority = static_cast<int32_t>(random() % 2);
        REQUIRE(
            engine.loop().Submit(TurnRequest(first, "", prompt, request.stopping.max_tokens)).ok());
        made.emplace(first, std::move(request));
      }
      if (random() % 4 == 0) {
        engine.loop().queue().Command({.request_id = first + random() % (next_id - first),
                                       .kind = RequestCommand::Kind::kCancel});
      }
      for (uint64_t steps = random() % 6; steps > 0; --steps) {
        engine.loop().Step();
      }
    }
    RunUntilIdle(engine);
    for (const auto& [id, score] : scores) {
      CAPTURE(id);
      const Transcript got = engine.sink().transcript(id);
      if (got.failed.has_value()) {
        REQUIRE(got.failed->status.code() == absl::StatusCode::kCancelled);
      } else {
        CheckScore(engine, options.shape, got, score.first, score.second);
      }
    }
    for (const auto& [id, request] : made) {
      CAPTURE(id);
      const Transcript got = engine.sink().transcript(id);
      if (got.finished.has_value()) {
        const Expected expected = ExpectedAnswer(request, engine.config(), options.shape);
        CheckSame(got.tokens, expected.tokens);
      }
    }
    REQUIRE(engine.loop().pool().num_references() == 0);
  }
}

}  // namespace
}  // namespace ringserve
