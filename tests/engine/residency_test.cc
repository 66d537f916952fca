// Sessions that do not fit on the device move to the host and back by copy: the same bits as if all
// fitted, nothing computed twice, nobody refused once admitted.
#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "tests/support/session_run.h"

namespace ringserve {
namespace {

FakeEngineOptions Tiered(bool slides) {
  FakeEngineOptions options;
  options.shape = {.buffer_size = 64,
                   .block_size = 8,
                   .sink_size = slides ? 3 : 0,
                   .feedback_size = 64,
                   .slides = slides};
  options.scheduler = {.prefill_size = 16, .max_batch = 16, .max_queue = 64};
  options.sessions.max_sessions = 100;
  return options;
}

constexpr int64_t kNumConversations = 64;
constexpr uint64_t kNumTurns = 43;

// Prompts of 2 to 41 tokens, most of them short; turn by turn and session by session the same for
// every engine.
class Script {
 public:
  GenerateRequest NextTurn(const std::string& id) {
    ++last_id_;
    const size_t length = 1 + 40 / (1 + random_() % 40);
    return TurnRequest(last_id_, id, SeededTokens(last_id_, length), 3);
  }

 private:
  std::mt19937_64 random_{43};
  uint64_t last_id_ = 0;
};

// The digests of all turns. Each knows all that was said before without computing it, and says,
// if `compares`, what a request without a session says to the whole text.
std::vector<uint64_t> Converse(FakeEngine& engine, bool compares) {
  std::vector<std::string> ids;
  for (int64_t i = 0; i < kNumConversations; ++i) {
    ids.push_back(engine.Create()->id);
  }
  Script script;
  std::vector<std::vector<int32_t>> texts(ids.size());
  std::vector<uint64_t> digests;
  for (uint64_t turn = 0; turn < kNumTurns; ++turn) {
    std::vector<GenerateRequest> requests;
    for (size_t i = 0; i < ids.size(); ++i) {
      GenerateRequest request = script.NextTurn(ids[i]);
      requests.push_back(TurnRequest(request.request_id, ids[i], request.prompt, 3));
      REQUIRE(engine.loop().Submit(std::move(request)).ok());
    }
    RunUntilIdle(engine);
    for (size_t i = 0; i < ids.size(); ++i) {
      CAPTURE(turn, i);
      const Transcript got = engine.sink().Take(requests[i].request_id);
      REQUIRE(got.finished.has_value());
      REQUIRE(got.finished->usage.reprefilled_tokens == 0);
      std::vector<int32_t>& text = texts[i];
      // All but the last token of its last answer was there.
      REQUIRE(got.finished->usage.cached_tokens ==
              std::max<int64_t>(static_cast<int64_t>(text.size()) - 1, 0));
      text.insert(text.end(), requests[i].prompt.begin(), requests[i].prompt.end());
      digests.push_back(got.finished->replay_digest);
      if (compares) {
        const Expected alone = ExpectedAnswer(TurnRequest(requests[i].request_id, "", text, 3),
                                              engine.config(),
                                              engine.options().shape);
        CheckSame(got.tokens, alone.tokens);
        REQUIRE(digests.back() == alone.digest);
      }
      for (const int32_t token_id : got.token_ids()) {
        text.push_back(token_id);
      }
    }
  }
  for (const std::string& id : ids) {
    REQUIRE(engine.Close(id).ok());
  }
  return digests;
}

TEST_CASE("sixty-four conversations of forty-three turns on a device that holds eight") {
  for (const bool slides : {false, true}) {
    CAPTURE(slides);
    FakeEngineOptions options = Tiered(slides);
    if (!slides) {
      options.shape.buffer_size = 768;
      options.shape.feedback_size = 768;
    }
    const auto most = static_cast<int32_t>(WorstCaseBlocks(options.shape, INT64_MAX).global);
    options.device_blocks = 8 * most;
    options.host_blocks = 56 * most + 1;
    FakeEngine engine(options);
    const std::vector<uint64_t> digests = Converse(engine, /*compares=*/true);
    const EngineLoad load = engine.loop().load();
    REQUIRE(load.spilled_blocks > 3000);
    REQUIRE(load.restored_blocks > 3000);
    REQUIRE(load.reprefilled_tokens == 0);
    REQUIRE(engine.loop().pool().num_references() == 0);
    REQUIRE(load.device_blocks == options.device_blocks);
    REQUIRE(load.device_blocks_free == options.device_blocks);
    REQUIRE(load.host_blocks_free == options.host_blocks);
    options.device_blocks = 64 * most;  // all fit
    options.host_blocks = 0;
    FakeEngine roomy(options);
    REQUIRE(Converse(roomy, /*compares=*/false) == digests);
    REQUIRE(roomy.loop().load().spilled_blocks == 0);
  }
}

TEST_CASE("running requests that outgrow the device take turns on it") {
  for (const bool slides : {false, true}) {
    for (const int32_t spare : {0, 1, 7, 20}) {
      FakeEngineOptions options = Tiered(slides);
      options.device_blocks =
          static_cast<int32_t>(WorstCaseBlocks(options.shape, 1000).global) + spare;
      options.host_blocks = 12 * 9 - options.device_blocks + 1;
      FakeEngine engine(options);
      for (uint64_t id = 1; id <= 12; ++id) {
        REQUIRE(engine.loop().Submit(TurnRequest(id, "", SeededTokens(id, 12), 52)).ok());
      }
      engine.loop().Step();
      REQUIRE(engine.loop().load().running == 12);  // what both tiers hold together is admitted
      RunUntilIdle(engine);
      for (uint64_t id = 1; id <= 12; ++id) {
        CAPTURE(slides, spare, id);
        const Transcript got = engine.sink().transcript(id);
        REQUIRE(got.finished.has_value());
        CheckSame(got.tokens,
                  ExpectedAnswer(
                      TurnRequest(id, "", SeededTokens(id, 12), 52), engine.config(), options.shape)
                      .tokens);
      }
      REQUIRE(engine.loop().load().spilled_blocks > 0);
      // By arrival, in long turns: who runs is not sent away for the next step already.
      REQUIRE(engine.loop().load().restored_blocks < 400);
      REQUIRE(engine.loop().pool().num_references() == 0);
    }
  }
}

TEST_CASE("nobody is left out for ever, however long others run") {
  FakeEngineOptions options = Tiered(true);
  options.device_blocks = static_cast<int32_t>(WorstCaseBlocks(options.shape, 1000).global);
  options.host_blocks = 8 * 9;
  FakeEngine engine(options);
  for (uint64_t id = 1; id <= 6; ++id) {
    REQUIRE(engine.loop().Submit(TurnRequest(id, "", SeededTokens(id, 60), 1 << 20)).ok());
  }
  for (int i = 0; i < 6 * 64 + 100; ++i) {
    REQUIRE(engine.loop().Step());
  }
  for (uint64_t id = 1; id <= 6; ++id) {
    CAPTURE(id);
    REQUIRE(engine.sink().transcript(id).tokens.size() >= 30);
  }
  // A more urgent one goes first at once.
  GenerateRequest urgent = TurnRequest(7, "", SeededTokens(7, 30), 10);
  urgent.priority = 1;
  REQUIRE(engine.loop().Submit(std::move(urgent)).ok());
  for (int i = 0; i < 12; ++i) {
    engine.loop().Step();
  }
  REQUIRE(engine.sink().transcript(7).finished.has_value());
}

TEST_CASE("a copy that fails ends everything with a status") {
  FakeEngineOptions options = Tiered(false);
  options.device_blocks = 9;
  options.host_blocks = 60;
  int num_faults = 0;
  for (int64_t call = 0; call < 1500; call += 11) {
    FakeEngine engine(options);
    for (uint64_t id = 1; id <= 4; ++id) {
      REQUIRE(engine.loop().Submit(TurnRequest(id, "", SeededTokens(id, 30), 30)).ok());
    }
    engine.backend().FailAfter(call);
    RunUntilIdle(engine);
    for (uint64_t id = 1; id <= 4; ++id) {
      const Transcript got = engine.sink().transcript(id);
      REQUIRE(got.has_ended());
      num_faults += got.failed.has_value() ? 1 : 0;
    }
    REQUIRE(engine.loop().pool().num_references() == 0);
  }
  REQUIRE(num_faults > 100);
}

TEST_CASE("forks and rollbacks work wherever the blocks lie") {
  FakeEngineOptions options = Tiered(true);
  options.device_blocks = 9;
  options.host_blocks = 100;
  FakeEngine engine(options);
  std::vector<std::string> ids = {engine.Create()->id};
  std::vector<std::vector<int32_t>> texts(1);
  CheckTurn(engine, TurnRequest(1, ids[0], SeededTokens(1, 45), 6), options.shape, texts[0]);
  std::mt19937_64 random(3);
  for (uint64_t i = 2; i < 80; ++i) {
    const size_t at = random() % ids.size();
    if (ids.size() < 8 && random() % 3 == 0) {
      ids.push_back(engine.Fork(ids[at])->id);
      texts.push_back(texts[at]);
    } else if (random() % 3 == 0) {
      const SessionInfo info = *engine.Get(ids[at]);
      const int64_t position =
          std::max(info.rollback_floor, info.position - static_cast<int64_t>(random() % 20));
      REQUIRE(engine.Rollback(ids[at], position).ok());
      texts[at].resize(static_cast<size_t>(position));
    } else {
      CheckTurn(engine,
                TurnRequest(i, ids[at], SeededTokens(i, 1 + random() % 9), 7),
                options.shape,
                texts[at]);
    }
  }
  REQUIRE(engine.loop().load().restored_blocks > 50);
}

}  // namespace
}  // namespace ringserve
