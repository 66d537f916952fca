// Whose turn it is: callers share the batch, and nobody waits for ever.
#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/session_run.h"

namespace ringserve {
namespace {

void SubmitFor(FakeEngine& engine, const std::string& owner, uint64_t id, int32_t max_tokens = 3) {
  GenerateRequest request = TurnRequest(id, "", SeededTokens(id, 3), max_tokens);
  request.owner = owner;
  REQUIRE(engine.loop().Submit(std::move(request)).ok());
}

TEST_CASE("a caller with few requests does not wait for all of one with many") {
  FakeEngineOptions options;
  options.scheduler.max_batch = 2;
  FakeEngine engine(options);
  for (uint64_t id = 1; id <= 6; ++id) {
    SubmitFor(engine, "many", id);
  }
  SubmitFor(engine, "few", 11);
  SubmitFor(engine, "few", 12);
  RunUntilIdle(engine);
  REQUIRE(engine.sink().TakeEnded() == std::vector<uint64_t>{1, 11, 2, 12, 3, 4, 5, 6});
}

TEST_CASE("priority goes before fairness") {
  FakeEngineOptions options;
  options.scheduler.max_batch = 1;
  FakeEngine engine(options);
  SubmitFor(engine, "few", 1);
  for (uint64_t id = 2; id <= 4; ++id) {
    GenerateRequest request = TurnRequest(id, "", SeededTokens(id, 3), 3);
    request.owner = "many";
    request.priority = 1;
    REQUIRE(engine.loop().Submit(std::move(request)).ok());
  }
  RunUntilIdle(engine);
  REQUIRE(engine.sink().TakeEnded() == std::vector<uint64_t>{2, 3, 4, 1});
}

TEST_CASE("a caller that is busy is overtaken by strangers only so often") {
  FakeEngineOptions options;
  options.scheduler.max_batch = 2;
  options.scheduler.max_queue = 300;
  options.shape.slides = true;
  FakeEngine engine(options);
  SubmitFor(engine, "busy", 1, 10000);
  SubmitFor(engine, "busy", 2);
  for (uint64_t id = 1000; id < 1200; ++id) {
    SubmitFor(engine, std::to_string(id), id);
  }
  for (int i = 0; i < 300; ++i) {
    engine.loop().Step();
  }
  const std::vector<uint64_t> ended = engine.sink().TakeEnded();
  const auto place = std::find(ended.begin(), ended.end(), 2) - ended.begin();
  REQUIRE(place == 64);
  REQUIRE(ended.size() > 70);
}

}  // namespace
}  // namespace ringserve
