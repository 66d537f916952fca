// Requests and turns of sessions on the fake engine, and what a turn must answer: what a request
// that stands alone answers to the whole text.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/fake_engine.h"

namespace ringserve {

inline std::vector<int32_t> SeededTokens(uint64_t seed, size_t count) {
  std::vector<int32_t> token_ids;
  for (size_t i = 0; i < count; ++i) {
    token_ids.push_back(static_cast<int32_t>((seed * 7 + i * 5 + i * i * seed) % 31 + 1));
  }
  return token_ids;
}

inline GenerateRequest TurnRequest(uint64_t request_id,
                                   const std::string& session_id,
                                   std::vector<int32_t> prompt,
                                   int32_t max_tokens,
                                   OnInterrupt on_interrupt = OnInterrupt::kRollback) {
  GenerateRequest request;
  request.request_id = request_id;
  request.prompt = std::move(prompt);
  request.sampling.seed = request_id;
  request.stopping.max_tokens = max_tokens;
  request.stopping.ignore_eos = true;
  if (!session_id.empty()) {
    request.turn.emplace();
    request.turn->session_id = session_id;
    request.turn->on_interrupt = on_interrupt;
  }
  return request;
}

// One that stands alone, with a prompt of so many tokens.
inline GenerateRequest LoneRequest(uint64_t request_id, size_t prompt_size, int32_t max_tokens) {
  return TurnRequest(request_id, "", SeededTokens(request_id, prompt_size), max_tokens);
}

inline SessionOptions Sized(int64_t buffer_size) {
  SessionOptions options;
  options.buffer_size = buffer_size;
  return options;
}

inline SessionOptions Timed(absl::Duration idle_timeout) {
  SessionOptions options;
  options.idle_timeout = idle_timeout;
  return options;
}

inline void RunUntilIdle(FakeEngine& engine) {
  for (int i = 0; engine.Advance(); ++i) {
    REQUIRE(i < 100000);
    REQUIRE(engine.loop().PoolBalances());
  }
}

inline void CheckSame(const std::vector<ScoredToken>& got,
                      const std::vector<ScoredToken>& expected) {
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

// Runs the turn to its end, holds the answer to that of `text` and the prompt, and appends both to
// the text. `shape` is the session's.
inline Transcript CheckTurn(FakeEngine& engine,
                            GenerateRequest request,
                            const SessionShape& shape,
                            std::vector<int32_t>& text) {
  GenerateRequest whole;
  whole.prompt = text;
  whole.prompt.insert(whole.prompt.end(), request.prompt.begin(), request.prompt.end());
  whole.sampling = request.sampling;
  whole.stopping.max_tokens = request.stopping.max_tokens;
  whole.stopping.min_tokens = request.stopping.min_tokens;
  whole.stopping.ignore_eos = request.stopping.ignore_eos;
  whole.stopping.stop_token_ids = request.stopping.stop_token_ids;
  whole.output = request.output;
  const Expected expected = ExpectedAnswer(whole, engine.config(), shape);
  const uint64_t id = request.request_id;
  const size_t num_before = text.size();
  REQUIRE(engine.loop().Submit(std::move(request)).ok());
  RunUntilIdle(engine);
  Transcript got = engine.sink().transcript(id);
  INFO((got.failed.has_value() ? got.failed->status.ToString() : "finished"));
  REQUIRE(got.finished.has_value());
  CheckSame(got.tokens, expected.tokens);
  REQUIRE(got.finished->reason == expected.reason);
  REQUIRE(got.finished->replay_digest == expected.digest);
  REQUIRE(got.finished->usage.reprefilled_tokens == 0);
  REQUIRE(got.finished->usage.prompt_tokens ==
          static_cast<int64_t>(whole.prompt.size() - num_before));
  text = std::move(whole.prompt);
  for (const int32_t token_id : got.token_ids()) {
    text.push_back(token_id);
  }
  REQUIRE(got.finished->session_position == static_cast<int64_t>(text.size()));
  return got;
}

}  // namespace ringserve
