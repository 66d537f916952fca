// Turns are transactions: whatever interrupts one, the session's next turn is that of a session
// that never saw it. Truth is the answer to the whole text, computed without blocks or steps.
#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/session_run.h"

namespace ringserve {
namespace {

FakeEngineOptions Refusing() {
  FakeEngineOptions options;
  options.shape = {.buffer_size = 64, .block_size = 8, .feedback_size = 64};
  options.scheduler.prefill_size = 5;
  options.runs_ahead = true;
  return options;
}

FakeEngineOptions Sliding() {
  FakeEngineOptions options;
  options.shape = {
      .buffer_size = 32, .block_size = 8, .sink_size = 3, .feedback_size = 16, .slides = true};
  options.scheduler.prefill_size = 5;
  return options;
}

struct Interruption {
  OnInterrupt policy = OnInterrupt::kRollback;
  int num_steps = 0;
  int64_t num_delivered = 0;
};

// What the session's text is to be; the tokens of the interrupted turn follow `before`.
int64_t ExpectedLength(const Interruption& test,
                       int64_t before,
                       const Transcript& got,
                       int64_t prompt_size) {
  const auto num_tokens = static_cast<int64_t>(got.tokens.size());
  int64_t num_kept = test.policy == OnInterrupt::kRollback ? 0 : num_tokens;
  if (test.policy == OnInterrupt::kKeepDelivered) {
    num_kept = std::min(test.num_delivered, num_tokens);
  }
  if (num_kept > 0) {
    return before + prompt_size + num_kept;
  }
  if (test.policy == OnInterrupt::kKeepAll) {
    const int64_t num_read = got.progress.empty() ? 0 : got.progress.back().prefilled_tokens;
    // The last token of the turn before is read first, and stays part of the text unread.
    return before + num_read;
  }
  return before;
}

// Cancels the second turn of a session after some steps. Returns false if it ended before.
bool CheckInterruption(const FakeEngineOptions& options, const Interruption& test) {
  CAPTURE(static_cast<int>(test.policy), test.num_steps, test.num_delivered);
  FakeEngine engine(options);
  const std::string id = engine.Create()->id;
  std::vector<int32_t> text;
  CheckTurn(engine, TurnRequest(1, id, SeededTokens(1, 11), 4), options.shape, text);
  const auto before = static_cast<int64_t>(text.size());

  const std::vector<int32_t> prompt = SeededTokens(2, 13);
  engine.sink().SetDelivered(2, test.num_delivered);
  REQUIRE(engine.loop().Submit(TurnRequest(2, id, prompt, 20, test.policy)).ok());
  for (int i = 0; i < test.num_steps; ++i) {
    engine.loop().Step();
  }
  engine.loop().queue().Command({.request_id = 2});
  engine.loop().Step();
  const Transcript lost = engine.sink().transcript(2);
  if (lost.finished.has_value()) {
    return false;
  }
  REQUIRE(absl::IsCancelled(lost.failed->status));
  const SessionInfo info = *engine.Get(id);
  REQUIRE(!info.is_busy);
  REQUIRE(info.position == lost.failed->session_position);
  const int64_t wanted = ExpectedLength(test, before, lost, static_cast<int64_t>(prompt.size()));
  if (info.rollback_floor <= before) {
    REQUIRE(info.position == wanted);
  } else {
    // The window moved: at least what the policy keeps, and nothing that was never there.
    REQUIRE(info.position >= wanted);
  }
  text.insert(text.end(), prompt.begin(), prompt.end());
  for (const int32_t token_id : lost.token_ids()) {
    text.push_back(token_id);
  }
  REQUIRE(info.position <= static_cast<int64_t>(text.size()));
  text.resize(static_cast<size_t>(info.position));
  CheckTurn(engine, TurnRequest(3, id, SeededTokens(3, 6), 7), options.shape, text);
  CheckTurn(engine, TurnRequest(4, id, SeededTokens(4, 1), 1), options.shape, text);
  REQUIRE(engine.Close(id).ok());
  REQUIRE(engine.loop().pool().num_references() == 0);
  return true;
}

TEST_CASE("a turn cancelled at any position leaves what its policy says") {
  for (const FakeEngineOptions& options : {Refusing(), Sliding()}) {
    for (const OnInterrupt policy :
         {OnInterrupt::kRollback, OnInterrupt::kKeepDelivered, OnInterrupt::kKeepAll}) {
      int num_steps = 0;
      while (CheckInterruption(options, {policy, num_steps, num_steps / 2})) {
        ++num_steps;
      }
      REQUIRE(num_steps >= 20);
    }
    // Everything delivered, and nothing.
    for (int num_steps = 0; num_steps < 20; num_steps += 3) {
      REQUIRE(CheckInterruption(options, {OnInterrupt::kKeepDelivered, num_steps, 1000}));
      REQUIRE(CheckInterruption(options, {OnInterrupt::kKeepDelivered, num_steps, 0}));
    }
  }
}

TEST_CASE("forty-three turns compute nothing twice") {
  for (FakeEngineOptions options : {Refusing(), Sliding()}) {
    if (!options.shape.slides) {
      options.shape.buffer_size = 2048;
      options.device_blocks = 300;
    }
    FakeEngine engine(options);
    const std::string id = engine.Create()->id;
    std::vector<int32_t> text;
    int64_t num_computed = 0;
    for (uint64_t turn = 1; turn <= 43; ++turn) {
      CAPTURE(turn);
      // A heavy tail: most prompts are short, one in seven is not.
      const size_t length = turn % 7 == 0 ? 150 : 1 + turn % 11;
      const auto num_tokens = static_cast<int32_t>(1 + turn * 5 % 13);
      const Transcript got =
          CheckTurn(engine,
                    TurnRequest(turn, id, SeededTokens(turn, length), num_tokens),
                    options.shape,
                    text);
      REQUIRE(got.accepted->cached_tokens == num_computed);
      REQUIRE(got.finished->usage.cached_tokens == num_computed);
      num_computed = static_cast<int64_t>(text.size()) - 1;
    }
    const SessionInfo info = *engine.Get(id);
    REQUIRE(info.counters.turns == 43);
    REQUIRE(info.counters.reprefilled_tokens == 0);
    REQUIRE(info.counters.prompt_tokens + info.counters.completion_tokens == info.position);
    REQUIRE(engine.loop().load().prompt_tokens + engine.loop().load().completion_tokens ==
            info.position + 42);  // the last token of each answer but one is read with a prompt
  }
}

TEST_CASE("a deadline, a drain and bad logits interrupt as a cancel does") {
  for (const int kind : {0, 1, 2}) {
    CAPTURE(kind);
    FakeEngine engine(Refusing());
    const std::string id = engine.Create()->id;
    std::vector<int32_t> text;
    CheckTurn(engine, TurnRequest(1, id, SeededTokens(1, 4), 4), engine.options().shape, text);
    GenerateRequest request =
        TurnRequest(2, id, SeededTokens(2, 5), 20, OnInterrupt::kKeepDelivered);
    request.deadline = engine.now() + absl::Seconds(5);
    engine.sink().SetDelivered(2, 3);
    const std::vector<int32_t> prompt = request.prompt;
    REQUIRE(engine.loop().Submit(std::move(request)).ok());
    for (int i = 0; i < 8; ++i) {
      engine.loop().Step();
    }
    if (kind == 0) {
      engine.Sleep(absl::Seconds(5));
    } else if (kind == 1) {
      engine.loop().queue().SetDrainDeadline(engine.now());
    } else {
      engine.backend().PoisonLogitsRow(0);
      engine.loop().Step();  // launches the bad row, which lands a step later
    }
    engine.loop().Step();
    const Transcript lost = engine.sink().transcript(2);
    REQUIRE(lost.failed.has_value());
    REQUIRE(lost.failed->status.code() == (kind == 0   ? absl::StatusCode::kDeadlineExceeded
                                           : kind == 1 ? absl::StatusCode::kUnavailable
                                                       : absl::StatusCode::kInternal));
    text.insert(text.end(), prompt.begin(), prompt.end());
    text.insert(text.end(), {lost.token_ids()[0], lost.token_ids()[1], lost.token_ids()[2]});
    REQUIRE(lost.failed->session_position == static_cast<int64_t>(text.size()));
    if (kind != 1) {
      CheckTurn(engine, TurnRequest(3, id, SeededTokens(3, 6), 7), engine.options().shape, text);
    }
  }
}

TEST_CASE("a device fault rolls turns back") {
  FakeEngine engine(Refusing());
  const std::string id = engine.Create()->id;
  std::vector<int32_t> text;
  CheckTurn(engine, TurnRequest(1, id, SeededTokens(1, 4), 4), engine.options().shape, text);
  REQUIRE(
      engine.loop().Submit(TurnRequest(2, id, SeededTokens(2, 5), 9, OnInterrupt::kKeepAll)).ok());
  engine.loop().Step();
  engine.loop().Step();
  engine.backend().FailAfter(3);
  engine.loop().Step();
  const Transcript lost = engine.sink().transcript(2);
  REQUIRE(absl::IsInternal(lost.failed->status));
  REQUIRE(lost.failed->session_position == static_cast<int64_t>(text.size()));
  REQUIRE(engine.loop().PoolBalances());
  REQUIRE(absl::IsUnavailable(engine.Get(id).status()));
}

TEST_CASE("prompt logprobs of a turn are those of its own prompt") {
  FakeEngine engine(Refusing());
  const std::string id = engine.Create()->id;
  std::vector<int32_t> text;
  CheckTurn(engine, TurnRequest(1, id, SeededTokens(1, 4), 4), engine.options().shape, text);
  GenerateRequest request = TurnRequest(2, id, SeededTokens(2, 12), 3);
  request.output.prompt_logprobs = true;
  GenerateRequest whole;
  whole.prompt = text;
  whole.prompt.insert(whole.prompt.end(), request.prompt.begin(), request.prompt.end());
  whole.output.prompt_logprobs = true;
  const Expected expected = ExpectedAnswer(whole, engine.config(), engine.options().shape);
  const size_t before = text.size();
  const Transcript got = CheckTurn(engine, std::move(request), engine.options().shape, text);
  CheckSame(got.prompt,
            {expected.prompt.begin() + static_cast<std::ptrdiff_t>(before), expected.prompt.end()});
}

TEST_CASE("penalties see the whole session") {
  FakeEngine engine(Refusing());
  const std::string id = engine.Create()->id;
  std::vector<int32_t> text;
  for (uint64_t turn = 1; turn < 5; ++turn) {
    GenerateRequest request = TurnRequest(turn, id, SeededTokens(turn, 3), 6);
    request.sampling.repetition_penalty = 1.5F;
    request.sampling.frequency_penalty = 0.3F;
    CheckTurn(engine, std::move(request), engine.options().shape, text);
  }
}

TEST_CASE("one turn at a time, and only from where the caller thinks the session stands") {
  FakeEngine engine(Refusing());
  const std::string id = engine.Create()->id;
  std::vector<int32_t> text;
  GenerateRequest stale = TurnRequest(1, id, SeededTokens(1, 4), 4);
  stale.turn->expected_position = 3;
  REQUIRE(engine.loop().Submit(std::move(stale)).ok());
  engine.loop().Step();
  REQUIRE(engine.sink().transcript(1).failed->status ==
          absl::AbortedError("session.expected_position: 3, but the session stands at 0"));
  GenerateRequest right = TurnRequest(2, id, SeededTokens(1, 4), 4);
  right.turn->expected_position = 0;
  REQUIRE(engine.loop().Submit(std::move(right)).ok());
  REQUIRE(engine.loop().Submit(TurnRequest(3, id, SeededTokens(3, 4), 4)).ok());
  engine.loop().Step();
  REQUIRE(absl::IsAborted(engine.sink().transcript(3).failed->status));
  REQUIRE(engine.Get(id)->is_busy);
  REQUIRE(absl::IsAborted(engine.Rollback(id, 0).status()));
  RunUntilIdle(engine);
  REQUIRE(engine.sink().transcript(2).finished.has_value());
  REQUIRE(engine.Get(id)->position == 8);
  // A prompt that does not fit is refused, and the session stays usable.
  REQUIRE(engine.loop().Submit(TurnRequest(4, id, SeededTokens(4, 57), 4)).ok());
  engine.loop().Step();
  REQUIRE(engine.sink().transcript(4).failed->status.message() ==
          "prompt: 57 tokens are more than 56, what is left of the session's buffer_size 64");
  REQUIRE(engine.loop().Submit(TurnRequest(5, id, SeededTokens(5, 56), 4)).ok());
  RunUntilIdle(engine);
  REQUIRE(engine.sink().transcript(5).finished->reason == FinishReason::kContextFull);
  REQUIRE(engine.Get(id)->position == 65);
  REQUIRE(engine.loop().Submit(TurnRequest(6, id, SeededTokens(6, 1), 4)).ok());
  engine.loop().Step();
  REQUIRE(absl::IsInvalidArgument(engine.sink().transcript(6).failed->status));
}

TEST_CASE("a session rolled back to any position goes on as if it had ended there") {
  for (const FakeEngineOptions& options : {Refusing(), Sliding()}) {
    FakeEngine probe(options);
    for (int64_t back = 0; back <= 33; ++back) {
      CAPTURE(back, options.shape.slides);
      FakeEngine engine(options);
      const std::string id = engine.Create()->id;
      std::vector<int32_t> text;
      CheckTurn(engine, TurnRequest(1, id, SeededTokens(1, 9), 6), options.shape, text);
      CheckTurn(engine, TurnRequest(2, id, SeededTokens(2, 11), 7), options.shape, text);
      const SessionInfo info = *engine.Get(id);
      REQUIRE(info.position == 33);
      const int64_t position = info.position - back;
      const absl::StatusOr<SessionInfo> rolled = engine.Rollback(id, position);
      if (position < info.rollback_floor) {
        REQUIRE(options.shape.slides);
        REQUIRE(absl::IsInvalidArgument(rolled.status()));
        continue;
      }
      REQUIRE(rolled->position == position);
      REQUIRE(rolled->counters.rollbacks == 1);
      text.resize(static_cast<size_t>(position));
      CheckTurn(engine, TurnRequest(3, id, SeededTokens(3, 5), 6), options.shape, text);
    }
    const std::string id = probe.Create()->id;
    REQUIRE(probe.Rollback(id, 1).status() ==
            absl::InvalidArgumentError("position: 1 is not in [0, 0]"));
    REQUIRE(!probe.Rollback(id, -1).ok());
  }
}

TEST_CASE("sessions run side by side and beside requests that stand alone") {
  FakeEngineOptions options = Sliding();
  options.scheduler.max_batch = 3;
  FakeEngine engine(options);
  std::vector<std::string> ids;
  std::vector<std::vector<int32_t>> texts(4);
  for (int i = 0; i < 4; ++i) {
    ids.push_back(engine.Create()->id);
  }
  uint64_t last_id = 100;
  for (uint64_t round = 1; round <= 5; ++round) {
    for (size_t i = 0; i < 4; ++i) {
      ++last_id;
      GenerateRequest alone = TurnRequest(last_id, "", SeededTokens(last_id, 12), 9);
      REQUIRE(engine.loop().Submit(std::move(alone)).ok());
      // Others run while this turn does.
      ++last_id;
      CheckTurn(engine,
                TurnRequest(last_id, ids[i], SeededTokens(round * 10 + i, 3 + round), 8),
                options.shape,
                texts[i]);
    }
  }
  for (const std::string& id : ids) {
    REQUIRE(engine.Close(id).ok());
  }
  REQUIRE(engine.loop().pool().num_references() == 0);
}

}  // namespace
}  // namespace ringserve
