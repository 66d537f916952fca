// Engines on random models of every family: what they generate is, token for token, what the model
// says when it is fed by hand, however prompts are cut and whoever else is in the step.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "engine/check_model.h"
#include "engine/model/safetensors.h"
#include "tests/support/devices.h"
#include "tests/support/engine_run.h"
#include "tests/support/model_runner.h"
#include "tests/support/random.h"

namespace ringserve {
namespace {

constexpr int32_t kMaxTokens = 20;

std::string Folder(const std::string& name) {
  return std::string(RINGSERVE_SOURCE_DIR) + "/tests/fixtures/" + name;
}

template <typename T>
T Get(absl::StatusOr<T> result) {
  INFO(result.status().ToString());
  REQUIRE(result.ok());
  return *std::move(result);
}

std::vector<int32_t> Prompt(int32_t vocab_size, size_t length, uint64_t seed) {
  Random random(seed);
  std::vector<int32_t> ids(length);
  for (int32_t& id : ids) {
    id = static_cast<int32_t>(random.Int(3, vocab_size - 1));
  }
  return ids;
}

// Beside an encoder's prompt, which takes whole blocks, the text needs room.
int64_t BufferSize(const ModelConfig& config) {
  return config.has_encoder() ? 256 : 128;
}

// The greedy continuation, one token after the other.
std::vector<int32_t> ByHand(const ModelConfig& config,
                            const Weights& weights,
                            Backend& backend,
                            const std::vector<int32_t>& prompt) {
  const int64_t size = BufferSize(config);
  const SessionShape shape = {.buffer_size = size, .block_size = 16, .feedback_size = size};
  const TileOptions tiles = {.split_size = backend.info().split_size};
  const auto runner = Get(ModelRunner::Create(config, weights, shape, 128, tiles, backend));
  std::vector<int32_t> text = prompt;
  if (config.has_encoder()) {
    runner->SetPrompt(prompt);
    text = {config.decoder_start_token_id};
  }
  std::vector<float> logits = Get(runner->Feed(text, 128, ModelRunner::Wanted::kLastRow));
  std::vector<int32_t> made;
  while (true) {
    const auto last = logits.end() - config.vocab_size;
    made.push_back(static_cast<int32_t>(std::max_element(last, logits.end()) - last));
    if (made.size() == kMaxTokens) {
      return made;
    }
    logits = Get(runner->Feed({&made.back(), 1}, 1, ModelRunner::Wanted::kLastRow));
  }
}

EngineConfig Config(const std::string& name, DevicePolicy device = DevicePolicy::kCpu) {
  EngineConfig config = FairytaleConfig();
  config.model = {.name = "family", .path = Folder(name)};
  config.rings = {.buffer_size = 128, .block_size = 16};
  config.attention = {.tile_size = 16};
  config.scheduler.prefill_size = 13;
  config.scheduler.max_batch = 3;
  config.device = device;
  return config;
}

TEST_CASE("every family is served as its model computes") {
  const std::string name = GENERATE("zoo/qwen3-qknorm",
                                    "zoo/mistral-window",
                                    "zoo/gemma3-text",
                                    "zoo/gpt2",
                                    "zoo/t5-v1_1",
                                    "families/t5-relu",
                                    "families/t5-untied",
                                    "families/mt5-head",
                                    "families/llama-yarn-bias",
                                    "families/qwen2-window",
                                    "families/gemma2",
                                    "families/gemma3-linear",
                                    "families/phi3-longrope",
                                    "families/gpt2-odd",
                                    "families/qwen3-moe-mixed",
                                    "families/mixtral",
                                    "families/gpt-oss");
  const DevicePolicy device = GENERATE(from_range(TestDevices()));
  CAPTURE(name, device == DevicePolicy::kCuda);
  const ModelConfig config = Get(LoadModelConfig(Folder(name)));
  const auto backend = MakeTestBackend(device);
  const auto weights =
      Get(Weights::Load(Folder(name), config, config.file_dtype, *backend, nullptr));
  FakeSink sink;
  EngineConfig served = Config(name, device);
  served.rings.buffer_size = BufferSize(config);
  const std::unique_ptr<Engine> engine = StartEngine(served, sink);
  std::vector<std::vector<int32_t>> prompts;
  for (const size_t length : {1, 17, 70, 100}) {
    GenerateRequest request;
    request.request_id = prompts.size();
    request.prompt = Prompt(config.vocab_size, length, length);
    request.sampling.temperature = 0;
    request.stopping.max_tokens = kMaxTokens;
    request.stopping.ignore_eos = true;
    prompts.push_back(request.prompt);
    REQUIRE(engine->Submit(std::move(request)).ok());
  }
  for (uint64_t id = 0; id < prompts.size(); ++id) {
    sink.AwaitEnd(id);
    const Transcript got = sink.transcript(id);
    CAPTURE(id, got.failed.has_value() ? got.failed->status.ToString() : "no failure");
    CHECK(got.token_ids() == ByHand(config, *weights, *backend, prompts[id]));
  }
}

TEST_CASE("layers of one window take no more memory than it, however long the text") {
  EngineConfig config = Config("zoo/mistral-window");
  config.rings.buffer_size = 512;
  FakeSink sink;
  // The 39 keys before a row and the 13 rows of a step, wherever in a block they begin.
  CHECK(Get(Engine::Plan(config)).blocks_per_session == 5);
  config.rings.overflow = OverflowPolicy::kSlide;
  CHECK(Get(Engine::Plan(config)).blocks_per_session == 5);
  const std::unique_ptr<Engine> engine = StartEngine(config, sink);
  GenerateRequest request;
  request.request_id = 1;
  request.prompt = Prompt(512, 700, 5);
  request.stopping.max_tokens = 5;
  request.stopping.ignore_eos = true;
  REQUIRE(engine->Submit(std::move(request)).ok());
  sink.AwaitEnd(1);
  const Transcript got = sink.transcript(1);
  REQUIRE(got.finished.has_value());
  CHECK(got.tokens.size() == 5);
  CHECK(got.finished->usage.evicted_tokens == 0);  // nothing that the model would have seen
}

TEST_CASE("what a family cannot do is named by the config key") {
  EngineConfig config = Config("zoo/mistral-window");
  config.rings.overflow = OverflowPolicy::kSlide;
  config.rings.sink_size = 4;
  CHECK(Engine::Plan(config).status().message() ==
        "rings.sink_size: sinks do not go with the model's own attention windows");
  config = Config("zoo/gpt2");
  config.rings.overflow = OverflowPolicy::kSlide;
  CHECK(Engine::Plan(config).status().message() ==
        "rings.overflow: the model has 512 positions, a text that slides has no end");
}

}  // namespace
}  // namespace ringserve
