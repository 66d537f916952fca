// Forks and further completions refer to the blocks of what they continue: they cost next to
// nothing, answer as if they had read everything themselves, and disturb nobody.
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/session_run.h"

namespace ringserve {
namespace {

FakeEngineOptions Refusing() {
  FakeEngineOptions options;
  options.shape = {.buffer_size = 64, .block_size = 8, .feedback_size = 64};
  options.scheduler.prefill_size = 7;
  return options;
}

FakeEngineOptions Sliding() {
  FakeEngineOptions options;
  options.shape = {
      .buffer_size = 32, .block_size = 8, .sink_size = 3, .feedback_size = 32, .slides = true};
  options.scheduler.prefill_size = 7;
  return options;
}

TEST_CASE("a fork goes on from any position as the session itself would have") {
  for (const FakeEngineOptions& options : {Refusing(), Sliding()}) {
    for (int64_t back = 0; back <= 24; ++back) {
      CAPTURE(back, options.shape.slides);
      FakeEngine engine(options);
      const std::string id = engine.Create()->id;
      std::vector<int32_t> text;
      CheckTurn(engine, TurnRequest(1, id, SeededTokens(1, 15), 9), options.shape, text);
      const int64_t blocks_before = engine.loop().pool().num_owned();
      const absl::StatusOr<SessionInfo> fork = engine.Fork(id, 24 - back);
      REQUIRE(fork.ok());
      REQUIRE(engine.loop().pool().num_owned() <= blocks_before + 2);
      REQUIRE(fork->position == 24 - back);
      REQUIRE(engine.Get(id)->position == 24);
      std::vector<int32_t> fork_text(text.begin(), text.end() - back);
      // Turn by turn, so that each writes while the other holds what they share.
      for (uint64_t turn = 2; turn < 6; turn += 2) {
        CheckTurn(engine, TurnRequest(turn, id, SeededTokens(turn, 5), 4), options.shape, text);
        CheckTurn(engine,
                  TurnRequest(turn + 1, fork->id, SeededTokens(turn + 7, 3), 5),
                  options.shape,
                  fork_text);
      }
      REQUIRE(engine.Close(back % 2 == 0 ? id : fork->id).ok());
      CheckTurn(engine,
                TurnRequest(9, back % 2 == 0 ? fork->id : id, SeededTokens(3, 2), 4),
                options.shape,
                back % 2 == 0 ? fork_text : text);
      REQUIRE(engine.Close(back % 2 == 0 ? fork->id : id).ok());
      REQUIRE(engine.loop().pool().num_references() == 0);
    }
  }
}

TEST_CASE("a fork rolled back into what it shares leaves the other as it was") {
  for (const FakeEngineOptions& options : {Refusing(), Sliding()}) {
    for (int64_t position = 0; position <= 24; position += 3) {
      CAPTURE(position, options.shape.slides);
      FakeEngine engine(options);
      const std::string id = engine.Create()->id;
      std::vector<int32_t> text;
      CheckTurn(engine, TurnRequest(1, id, SeededTokens(1, 15), 9), options.shape, text);
      const std::string fork = engine.Fork(id)->id;
      REQUIRE(engine.Rollback(fork, position).ok());
      std::vector<int32_t> fork_text(text.begin(), text.begin() + position);
      CheckTurn(engine, TurnRequest(2, fork, SeededTokens(2, 9), 6), options.shape, fork_text);
      CheckTurn(engine, TurnRequest(3, id, SeededTokens(3, 5), 4), options.shape, text);
    }
  }
}

TEST_CASE("a hundred forks of one session make a hundred answers at once") {
  FakeEngineOptions options = Refusing();
  options.scheduler.max_batch = 100;
  options.scheduler.max_queue = 100;
  options.device_blocks = 6 + 100 * 3;
  FakeEngine engine(options);
  const std::string id = engine.Create()->id;
  std::vector<int32_t> text;
  CheckTurn(engine, TurnRequest(1000, id, SeededTokens(1, 41), 2), options.shape, text);
  std::vector<std::string> forks;
  for (int i = 0; i < 100; ++i) {
    forks.push_back(engine.Fork(id)->id);
  }
  REQUIRE(engine.loop().pool().num_owned() == 6 + 100);
  const std::vector<int32_t> prompt = SeededTokens(5, 3);
  for (uint64_t i = 0; i < 100; ++i) {
    REQUIRE(engine.loop().Submit(TurnRequest(i, forks[i], prompt, 8)).ok());
  }
  engine.loop().Step();
  REQUIRE(engine.loop().load().running == 100);
  RunUntilIdle(engine);
  std::set<std::vector<int32_t>> answers;
  text.insert(text.end(), prompt.begin(), prompt.end());
  for (uint64_t i = 0; i < 100; ++i) {
    const Transcript got = engine.sink().transcript(i);
    const Expected expected =
        ExpectedAnswer(TurnRequest(i, "", text, 8), engine.config(), options.shape);
    CheckSame(got.tokens, expected.tokens);
    REQUIRE(got.finished->replay_digest == expected.digest);
    answers.insert(got.token_ids());
  }
  REQUIRE(answers.size() > 95);
  for (const std::string& fork : forks) {
    REQUIRE(engine.Close(fork).ok());
  }
  REQUIRE(engine.loop().pool().num_owned() == 6);
  REQUIRE(engine.Close(id).ok());
  REQUIRE(engine.loop().pool().num_references() == 0);
}

TEST_CASE("a fork of a long text takes one block") {
  const SessionShape shape = {.buffer_size = 131072, .block_size = 64, .feedback_size = 131072};
  BlockPool pool(2048);
  Session session(shape, INT64_MAX, pool);
  session.Append(std::vector<int32_t>(100'001, 7), Session::Phase::kPrefill);
  session.Commit();
  REQUIRE(pool.num_owned() == 1563);
  std::vector<BlockCopy> copies;
  const Session fork(session, session.position(), INT64_MAX, copies);
  REQUIRE(pool.num_owned() == 1564);
  REQUIRE(copies.size() == 1);
  REQUIRE(copies[0].num_keys == 33);
}

TEST_CASE("forks are refused where there is no place for them") {
  FakeEngineOptions options = Refusing();
  options.sessions.max_sessions = 2;
  options.device_blocks = 8;
  FakeEngine engine(options);
  const std::string id = engine.Create()->id;
  std::vector<int32_t> text;
  CheckTurn(engine, TurnRequest(1, id, SeededTokens(1, 55), 4), options.shape, text);
  REQUIRE(absl::IsResourceExhausted(engine.Fork(id).status()));  // 8 of 8 blocks
  REQUIRE(engine.Fork(id, 59).status() ==
          absl::ResourceExhaustedError("sessions hold 8 of 8 blocks of KV memory, the call needs 1 "
                                       "more: close some, or give more memory"));
  REQUIRE(engine.Fork(id, 56).ok());  // no partial block
  REQUIRE(absl::IsResourceExhausted(engine.Fork(id, 48).status()));
  REQUIRE(absl::IsNotFound(engine.Fork("nobody").status()));
  REQUIRE(engine.Fork(id, 99).status().message() ==
          "there are 2 sessions, as many as sessions.max_sessions allows");
  REQUIRE(engine.loop().Submit(TurnRequest(2, id, SeededTokens(1, 2), 2)).ok());
  engine.loop().Step();
  REQUIRE(absl::IsAborted(engine.Fork(id).status()));
}

GenerateRequest WithSiblings(size_t prompt_size, int32_t max_tokens, size_t num_siblings) {
  GenerateRequest request = TurnRequest(1, "", SeededTokens(3, prompt_size), max_tokens);
  for (size_t i = 0; i < num_siblings; ++i) {
    Sibling sibling;
    sibling.request_id = 2 + i;
    sibling.seed = 2 + i;
    request.siblings.push_back(std::move(sibling));
  }
  return request;
}

void CheckSibling(FakeEngine& engine, uint64_t id, size_t prompt_size, int32_t max_tokens) {
  CAPTURE(id, prompt_size, max_tokens);
  const Transcript got = engine.sink().transcript(id);
  REQUIRE(got.finished.has_value());
  const Expected expected =
      ExpectedAnswer(TurnRequest(id, "", SeededTokens(3, prompt_size), max_tokens),
                     engine.config(),
                     engine.options().shape);
  CheckSame(got.tokens, expected.tokens);
  REQUIRE(got.finished->replay_digest == expected.digest);
}

TEST_CASE("siblings answer as requests of their own and read the prompt once") {
  for (const FakeEngineOptions& options : {Refusing(), Sliding()}) {
    for (const size_t prompt_size : {1, 2, 8, 9, 30}) {
      for (const int32_t max_tokens : {1, 20}) {
        FakeEngine engine(options);
        REQUIRE(engine.loop().Submit(WithSiblings(prompt_size, max_tokens, 4)).ok());
        RunUntilIdle(engine);
        for (uint64_t id = 1; id <= 5; ++id) {
          CheckSibling(engine, id, prompt_size, max_tokens);
        }
        // Four of five run at once; the last one comes when the first may have ended.
        const auto size = static_cast<int64_t>(prompt_size);
        REQUIRE(engine.loop().load().prompt_tokens <= 2 * size + 4);
        REQUIRE(engine.sink().transcript(3).finished->usage.cached_tokens == size - 1);
        REQUIRE(engine.loop().pool().num_references() == 0);
      }
    }
  }
}

TEST_CASE("siblings outlive a leader that is cancelled at any step") {
  for (int num_steps = 0; num_steps < 12; ++num_steps) {
    CAPTURE(num_steps);
    FakeEngine engine(Refusing());
    REQUIRE(engine.loop().Submit(WithSiblings(33, 12, 3)).ok());
    for (int i = 0; i < num_steps; ++i) {
      engine.loop().Step();
    }
    engine.loop().queue().Command({.request_id = 1});
    if (num_steps % 3 == 0) {
      engine.loop().queue().Command({.request_id = 3});
    }
    RunUntilIdle(engine);
    REQUIRE(engine.sink().transcript(1).failed.has_value());
    for (uint64_t id = 2; id <= 4; ++id) {
      if (id != 3 || num_steps % 3 != 0) {
        CheckSibling(engine, id, 33, 12);
      }
    }
    REQUIRE(engine.loop().pool().num_references() == 0);
  }
}

TEST_CASE("siblings need their places in queue and memory like others") {
  FakeEngineOptions options = Refusing();
  options.scheduler.max_batch = 2;
  options.scheduler.max_queue = 3;
  FakeEngine engine(options);
  REQUIRE(absl::IsInvalidArgument(engine.loop().Submit(WithSiblings(9, 4, 5))));  // never
  REQUIRE(engine.loop().Submit(WithSiblings(9, 4, 4)).ok());
  REQUIRE(absl::IsResourceExhausted(engine.loop().Submit(WithSiblings(9, 4, 0))));
  RunUntilIdle(engine);
  for (uint64_t id = 1; id <= 5; ++id) {
    CheckSibling(engine, id, 9, 4);
  }
  options.device_blocks = 9;  // one whole context and a block
  FakeEngine small(options);
  REQUIRE(small.loop().Submit(WithSiblings(40, 100, 4)).ok());
  RunUntilIdle(small);
  for (uint64_t id = 1; id <= 5; ++id) {
    CheckSibling(small, id, 40, 100);
  }
}

}  // namespace
}  // namespace ringserve
