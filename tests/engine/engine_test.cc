// The whole engine on the embedded model: load, plan, serve, drain.
#include "engine/engine.h"

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <absl/time/clock.h>

#include "tests/support/engine_run.h"

namespace ringserve {
namespace {

GenerateRequest Greedy(uint64_t id, std::vector<int32_t> prompt, int32_t max_tokens) {
  GenerateRequest request;
  request.request_id = id;
  request.prompt = std::move(prompt);
  request.sampling.temperature = 0;
  request.stopping.max_tokens = max_tokens;
  return request;
}

TEST_CASE("the engine continues prompts as Hugging Face does") {
  FakeSink sink;
  const std::unique_ptr<Engine> engine = StartEngine(FairytaleConfig(), sink);
  const nlohmann::json reference = FairytaleReference();
  for (uint64_t id = 0; id < 4; ++id) {
    GenerateRequest request = Greedy(id, reference[id]["prompt_token_ids"], 128);
    request.output.num_logprobs = 2;
    REQUIRE(engine->Submit(std::move(request)).ok());
  }
  for (uint64_t id = 0; id < 4; ++id) {
    sink.AwaitEnd(id);
    const Transcript got = sink.transcript(id);
    const std::vector<int32_t> expected = reference[id]["greedy_token_ids"];
    REQUIRE(got.finished.has_value());
    REQUIRE(got.finished->reason == FinishReason::kMaxTokens);
    REQUIRE(got.tokens.size() == expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      CAPTURE(id, i);
      const ScoredToken& token = got.tokens[i];
      REQUIRE(token.token.token_id == token.alternatives[0].token_id);
      REQUIRE(token.token.logprob == token.alternatives[0].logprob);
      if (token.token.token_id != expected[i]) {
        // Texts may part where two tokens are as good as equal in bfloat16, and only there.
        REQUIRE(token.alternatives[1].token_id == expected[i]);
        REQUIRE(token.alternatives[0].logprob - token.alternatives[1].logprob < 0.05F);
        break;
      }
    }
  }
  const EngineLoad load = engine->load();
  REQUIRE(load.completion_tokens == 4 * 128);
  REQUIRE(load.tiles_triangle > 0);
  REQUIRE(load.block_loads > 0);
  REQUIRE(load.healthy);
  REQUIRE(load.kernel_time > absl::ZeroDuration());
  REQUIRE(load.kernel_time <= load.step_time);
}

TEST_CASE("the document's likelihood is Hugging Face's") {
  FakeSink sink;
  const std::unique_ptr<Engine> engine = StartEngine(FairytaleConfig(), sink);
  const nlohmann::json document = FairytaleReference()[4];
  GenerateRequest request = Greedy(1, document["document_token_ids"], 1);
  request.output.prompt_logprobs = true;
  REQUIRE(engine->Submit(std::move(request)).ok());
  sink.AwaitEnd(1);
  const Transcript got = sink.transcript(1);
  REQUIRE(got.prompt.size() == 1023);
  double sum = 0;
  for (const ScoredToken& token : got.prompt) {
    sum -= token.token.logprob;
  }
  REQUIRE(std::abs(sum / 1023 - document["mean_nll"].get<double>()) < 0.002);
}

TEST_CASE("what the plan says is what is there") {
  const EngineConfig config = FairytaleConfig();
  const absl::StatusOr<MemoryPlan> plan = Engine::Plan(config);
  REQUIRE(plan.ok());
  FakeSink sink;
  const std::unique_ptr<Engine> engine = StartEngine(config, sink);
  REQUIRE(engine->memory_plan().device_bytes() == plan->device_bytes());
  REQUIRE(engine->load().device_blocks == plan->device_blocks);
  REQUIRE(engine->load().device_blocks_free == plan->device_blocks);
  REQUIRE(plan->blocks_per_session == 16);
  REQUIRE(engine->limits().max_prompt_tokens == 1024);
  REQUIRE(engine->limits().vocab_size == 4096);
  REQUIRE(engine->model_config().num_layers == 6);
  REQUIRE(engine->device_description().rfind("cpu: ", 0) == 0);
}

TEST_CASE("an engine that cannot be is refused with the reason") {
  FakeSink sink;
  Engine::Options options;
  options.config = FairytaleConfig();
  options.config.model.path = "/nowhere";
  REQUIRE(!Engine::Create(std::move(options), sink).ok());
  Engine::Options cuda;
  cuda.config = FairytaleConfig();
  cuda.config.device = DevicePolicy::kCuda;
  const auto refused = Engine::Create(std::move(cuda), sink).status();
  if (!refused.ok()) {  // no GPU here, or no kernels for one in this build
    REQUIRE(std::string(refused.message()).rfind("device: \"cuda\"", 0) == 0);
  }
  Engine::Options large;
  large.config = FairytaleConfig();
  large.config.rings.buffer_size = 4096;
  REQUIRE(!Engine::Create(std::move(large), sink).ok());
  Engine::Options huge;
  huge.config = FairytaleConfig();
  huge.config.memory.device_bytes = int64_t{1} << 48;
  huge.progress = [](double, void*) { FAIL("it was loaded"); };
  REQUIRE(Engine::Plan(huge.config).ok());
  const absl::Status too_large = Engine::Create(std::move(huge), sink).status();
  REQUIRE(too_large.code() == absl::StatusCode::kResourceExhausted);
  REQUIRE(too_large.message().find("bytes (262144.0 GiB) of ") != std::string::npos);
}

TEST_CASE("bad requests are refused at the door") {
  FakeSink sink;
  const std::unique_ptr<Engine> engine = StartEngine(FairytaleConfig(), sink);
  REQUIRE(engine->Submit(Greedy(1, {}, 4)).message() ==
          "prompt: it has no tokens, at least 1 is needed");
  REQUIRE(engine->Submit(Greedy(1, {4096}, 4)).message() ==
          "prompt[0]: token id 4096 is not in [0, 4096)");
  REQUIRE(engine->Submit(Greedy(1, std::vector<int32_t>(1025, 5), 4)).message() ==
          "prompt: 1025 tokens are more than 1024, what the context holds");
  REQUIRE(sink.TakeEnded().empty());
}

TEST_CASE("cancel, pause and drain reach a running engine") {
  EngineConfig config = FairytaleConfig();
  config.rings.overflow = OverflowPolicy::kSlide;
  config.rings.sink_size = 4;
  config.rings.buffer_size = 128;
  FakeSink sink;
  const std::unique_ptr<Engine> engine = StartEngine(config, sink);
  for (uint64_t id = 1; id <= 3; ++id) {
    GenerateRequest request = Greedy(id, {0, 432, 1006}, 1 << 30);
    request.stopping.ignore_eos = true;
    REQUIRE(engine->Submit(std::move(request)).ok());
  }
  sink.AwaitTokens(1, 300);  // past the buffer
  REQUIRE(!sink.transcript(1).notices.empty());
  engine->Cancel(1);
  sink.AwaitEnd(1);
  REQUIRE(absl::IsCancelled(sink.transcript(1).failed->status));
  engine->SetPaused(2, true);
  sink.AwaitTokens(3, sink.transcript(3).tokens.size() + 20);
  const size_t paused_at = sink.transcript(2).tokens.size();
  sink.AwaitTokens(3, sink.transcript(3).tokens.size() + 20);
  REQUIRE(sink.transcript(2).tokens.size() == paused_at);
  engine->SetPaused(2, false);
  sink.AwaitTokens(2, paused_at + 20);
  engine->Drain(absl::Now());
  for (const uint64_t id : {2, 3}) {
    REQUIRE(absl::IsUnavailable(sink.transcript(id).failed->status));
  }
  REQUIRE(absl::IsUnavailable(engine->Submit(Greedy(4, {1}, 4))));
  REQUIRE(engine->load().device_blocks_free == engine->load().device_blocks);
}

}  // namespace
}  // namespace ringserve
