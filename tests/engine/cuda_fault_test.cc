// A CUDA error in a step, for real: the last thing that a process does with its GPU, so a program
// of its own.
#include <cstdint>
#include <memory>
#include <string>

#include "engine/backend/make_backend.h"
#include "tests/support/cuda_trap.h"
#include "tests/support/engine_run.h"

namespace ringserve {
namespace {

TEST_CASE("a CUDA error ends every live call with a status") {
  if (!MakeBackend(DevicePolicy::kCuda, 1).ok()) {
    WARN("no GPU: a CUDA error cannot be tried");
    return;
  }
  FakeSink sink;
  EngineConfig config = FairytaleConfig();
  config.device = DevicePolicy::kCuda;
  config.scheduler.max_batch = 4;
  const std::unique_ptr<Engine> engine = StartEngine(config, sink);
  const auto request = [](uint64_t id) {
    GenerateRequest made;
    made.request_id = id;
    made.prompt = {1, 2, 3};
    made.stopping.max_tokens = 900;
    made.stopping.ignore_eos = true;
    return made;
  };
  // Four run, the others wait.
  for (uint64_t id = 0; id < 6; ++id) {
    REQUIRE(engine->Submit(request(id)).ok());
  }
  sink.AwaitTokens(0, 1);
  REQUIRE(engine->load().healthy);
  LaunchTrap();
  for (uint64_t id = 0; id < 6; ++id) {
    CAPTURE(id);
    sink.AwaitEnd(id);
    const Transcript got = sink.transcript(id);
    REQUIRE(got.failed.has_value());
    CHECK(got.failed->status.code() ==
          (id < 4 ? absl::StatusCode::kInternal : absl::StatusCode::kUnavailable));
    CHECK(std::string(got.failed->status.message()).find("CUDA error") != std::string::npos);
  }
  CHECK_FALSE(engine->load().healthy);
  CHECK(engine->Submit(request(7)).code() == absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace ringserve
