// Encoder-decoders behind the engine: what a request gets is what its own prompt and seed say,
// whoever else is there; and what such a model has no meaning for is refused.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <absl/synchronization/notification.h>

#include "engine/model/safetensors.h"
#include "tests/support/devices.h"
#include "tests/support/engine_run.h"
#include "tests/support/fixture_files.h"

namespace ringserve {
namespace {

EngineConfig Config(const std::string& name, DevicePolicy device = DevicePolicy::kCpu) {
  EngineConfig config = FairytaleConfig();
  config.device = device;
  config.model = {.name = "t5",
                  .path = std::string(RINGSERVE_SOURCE_DIR) + "/tests/fixtures/" + name};
  config.rings = {.buffer_size = 192, .block_size = 16};
  config.attention = {.tile_size = 16};
  return config;
}

GenerateRequest RandomRequest(uint64_t id) {
  std::mt19937_64 random(id);
  GenerateRequest request;
  request.request_id = id;
  request.prompt.resize(1 + random() % 100);
  for (int32_t& token_id : request.prompt) {
    token_id = static_cast<int32_t>(random() % 160);
  }
  request.sampling.seed = random();
  request.sampling.temperature = id % 3 == 0 ? 0.0F : 1.0F;
  request.sampling.repetition_penalty = id % 3 == 1 ? 1.3F : 1.0F;
  request.stopping.max_tokens = 1 + static_cast<int32_t>(random() % 30);
  return request;
}

struct Answer {
  std::vector<int32_t> token_ids;
  uint64_t digest = 0;
  bool operator==(const Answer&) const = default;
};

std::vector<Answer> Answers(const EngineConfig& config, uint64_t num_requests) {
  FakeSink sink;
  const std::unique_ptr<Engine> engine = StartEngine(config, sink);
  for (uint64_t id = 0; id < num_requests; ++id) {
    REQUIRE(engine->Submit(RandomRequest(id)).ok());
  }
  std::vector<Answer> answers;
  int64_t num_prompt_tokens = 0;
  for (uint64_t id = 0; id < num_requests; ++id) {
    sink.AwaitEnd(id);
    const Transcript got = sink.transcript(id);
    REQUIRE(got.finished.has_value());
    CHECK(got.finished->usage.cached_tokens == 0);
    CHECK(got.finished->session_position ==
          got.finished->usage.prompt_tokens + static_cast<int64_t>(got.tokens.size()));
    num_prompt_tokens += got.finished->usage.prompt_tokens;
    answers.push_back({got.token_ids(), got.finished->replay_digest});
  }
  CHECK(engine->load().prompt_tokens == num_prompt_tokens);
  CHECK(engine->load().device_blocks_free == engine->load().device_blocks);
  return answers;
}

TEST_CASE("an encoder-decoder answers alike alone and in company, however steps are cut") {
  const std::string name = GENERATE("families/t5-relu", "zoo/t5-v1_1");
  const DevicePolicy device = GENERATE(from_range(TestDevices()));
  CAPTURE(name, device == DevicePolicy::kCuda);
  EngineConfig config = Config(name, device);
  config.scheduler.max_batch = 1;
  config.num_threads = 1;
  const std::vector<Answer> alone = Answers(config, 40);
  for (const int32_t prefill_size : {1, 7, 100, 512}) {
    CAPTURE(prefill_size);
    config.scheduler.prefill_size = prefill_size;
    config.scheduler.max_batch = prefill_size == 7 ? 64 : 5;
    config.num_threads = 2;
    CHECK(Answers(config, 40) == alone);
  }
  // Some layers of a prompt at a time, beside those who decode.
  config.scheduler.max_token_gap_ms = 1;
  CHECK(Answers(config, 40) == alone);
  config.scheduler.prefill_size = 7;
  config.scheduler.max_batch = 64;
  CHECK(Answers(config, 40) == alone);
  config.rings.block_size = config.attention.tile_size = 64;
  CHECK(Answers(config, 40) == alone);
  // Two whole requests on the device, the rest of the batch in host memory.
  config.rings.block_size = config.attention.tile_size = 16;
  const int64_t block_bytes = Get(Engine::Plan(config)).kv.block_bytes();
  config.memory = {.device_bytes = 24 * block_bytes, .pinned_bytes = 100 * block_bytes};
  config.scheduler.max_batch = 8;
  FakeSink sink;
  const std::unique_ptr<Engine> engine = StartEngine(config, sink);
  for (uint64_t id = 0; id < 40; ++id) {
    REQUIRE(engine->Submit(RandomRequest(id)).ok());
  }
  for (uint64_t id = 0; id < 40; ++id) {
    sink.AwaitEnd(id);
    CHECK(sink.transcript(id).token_ids() == alone[id].token_ids);
  }
  CHECK(engine->load().restored_blocks > 0);
}

TEST_CASE("cancels at any time change neither others' answers nor what is free in the end") {
  const DevicePolicy device = GENERATE(from_range(TestDevices()));
  EngineConfig config = Config("families/t5-relu", device);
  const std::vector<Answer> alone = Answers(config, 40);
  const int64_t block_bytes = Get(Engine::Plan(config)).kv.block_bytes();
  config.memory = {.device_bytes = 24 * block_bytes, .pinned_bytes = 100 * block_bytes};
  config.scheduler.prefill_size = 50;
  FakeSink sink;
  const std::unique_ptr<Engine> engine = StartEngine(config, sink);
  std::mt19937_64 random(5);
  uint64_t next_id = 100;
  for (uint64_t id = 0; id < 40; ++id) {
    GenerateRequest request = RandomRequest(id);
    if (id % 4 == 0) {
      Sibling sibling;
      sibling.request_id = next_id++;
      sibling.seed = request.sampling.seed;
      request.siblings.push_back(std::move(sibling));
    }
    REQUIRE(engine->Submit(std::move(request)).ok());
    if (random() % 2 == 0) {
      engine->Cancel(random() % (id + 1));
    }
    if (random() % 5 == 0) {
      sink.AwaitEnd(random() % (id + 1));
    }
  }
  int num_finished = 0;
  for (uint64_t id = 0; id < 40; ++id) {
    sink.AwaitEnd(id);
    if (sink.transcript(id).finished.has_value()) {
      CHECK(sink.transcript(id).token_ids() == alone[id].token_ids);
      ++num_finished;
    }
  }
  CHECK(num_finished >= 10);
  for (uint64_t id = 100; id < next_id; ++id) {
    sink.AwaitEnd(id);  // of request 4 * (id - 100), whoever was cancelled
    CHECK(sink.transcript(id).token_ids() == alone[4 * (id - 100)].token_ids);
  }
  CHECK(engine->load().device_blocks_free == engine->load().device_blocks);
  CHECK(engine->load().host_blocks_free == engine->load().host_blocks);
}

// Submits request 2 once request 1 has three tokens, and counts how many more request 1 gets from
// when request 2 has its place to when it has its first token.
class Follower final : public EventSink {
 public:
  explicit Follower(GenerateRequest second) : second_(std::move(second)) {}

  void Publish(std::span<TokenEvent> events) override {
    for (const TokenEvent& event : events) {
      const bool is_token = std::holds_alternative<SampledTokenEvent>(event.event);
      if (event.request_id == 1 && is_token) {
        num_between_ += is_accepted_ && !has_token_ ? 1 : 0;
        ++num_tokens_;
        if (num_tokens_ == 3) {
          submitted_ = engine_->Submit(std::move(second_));
        }
      }
      is_accepted_ = is_accepted_ || event.request_id == 2;
      has_token_ = has_token_ || (event.request_id == 2 && is_token);
    }
    sink_.Publish(events);
  }

  int64_t DeliveredTokens(uint64_t request_id) override {
    return sink_.DeliveredTokens(request_id);
  }

  void set_engine(Engine& engine) { engine_ = &engine; }

  FakeSink& sink() { return sink_; }

  // Once the sink has told of request 2's end.
  const absl::Status& submitted() const { return submitted_; }

  int num_between() const { return num_between_; }

 private:
  FakeSink sink_;
  GenerateRequest second_;
  Engine* engine_ = nullptr;
  absl::Status submitted_;
  int num_tokens_ = 0;
  int num_between_ = 0;
  bool is_accepted_ = false;
  bool has_token_ = false;
};

TEST_CASE("streams go on between the layers of a long prompt's encoder, where a gap is bounded") {
  EngineConfig config = Config("families/t5-relu");
  config.rings.buffer_size = 4096;
  config.scheduler.prefill_size = 64;
  std::vector<int32_t> tokens;
  for (const int32_t max_token_gap_ms : {0, 1}) {
    CAPTURE(max_token_gap_ms);
    config.scheduler.max_token_gap_ms = max_token_gap_ms;
    GenerateRequest first;
    first.request_id = 1;
    first.prompt.assign(20, 5);
    first.stopping.max_tokens = 1000;
    first.stopping.ignore_eos = true;
    GenerateRequest second = RandomRequest(2);
    second.prompt.assign(2000, 9);
    Follower follower(std::move(second));
    const std::unique_ptr<Engine> engine = StartEngine(config, follower);
    follower.set_engine(*engine);
    REQUIRE(engine->Submit(std::move(first)).ok());
    follower.sink().AwaitEnd(2);
    CHECK(follower.submitted().ok());
    // A step for each layer, since 64 rows are the most that one may take; or one for both.
    CHECK(follower.num_between() == (max_token_gap_ms > 0 ? 2 : 1));
    const std::vector<int32_t> got = follower.sink().transcript(2).token_ids();
    CHECK((tokens.empty() || got == tokens));
    tokens = got;
    engine->Cancel(1);
    follower.sink().AwaitEnd(1);
    CHECK(engine->load().device_blocks_free == engine->load().device_blocks);
  }
  CHECK_FALSE(tokens.empty());
}

TEST_CASE("an encoder-decoder continues as Hugging Face does") {
  // In float32 the two best logits are far enough apart at each token.
  const std::string name = GENERATE("families/t5-relu", "families/t5-untied", "families/mt5-head");
  CAPTURE(name);
  EngineConfig config = Config(name);
  config.model.dtype = DTypePolicy::kF32;
  const auto file = Get(SafetensorsFile::Open(config.model.path + "/reference.safetensors"));
  const auto reference = References(*file);
  FakeSink sink;
  const std::unique_ptr<Engine> engine = StartEngine(config, sink);
  GenerateRequest request;
  request.prompt = Ints(reference.at("input_ids"));
  request.sampling.temperature = 0;
  const std::vector<int32_t> greedy = Ints(reference.at("greedy"));
  request.stopping.max_tokens = static_cast<int32_t>(greedy.size());
  request.stopping.ignore_eos = true;
  REQUIRE(engine->Submit(std::move(request)).ok());
  sink.AwaitEnd(0);
  CHECK(sink.transcript(0).token_ids() == greedy);
}

TEST_CASE("siblings share what the encoder made, and answer as if they stood alone") {
  const DevicePolicy device = GENERATE(from_range(TestDevices()));
  EngineConfig config = Config("families/mt5-head", device);
  FakeSink sink;
  const std::unique_ptr<Engine> engine = StartEngine(config, sink);
  GenerateRequest request = RandomRequest(1);
  for (uint64_t id = 10; id < 14; ++id) {
    Sibling sibling;
    sibling.request_id = sibling.seed = id;
    request.siblings.push_back(std::move(sibling));
  }
  REQUIRE(engine->Submit(std::move(request)).ok());
  for (uint64_t id = 20; id < 24; ++id) {
    GenerateRequest alone = RandomRequest(1);
    alone.request_id = id;
    alone.sampling.seed = id - 10;
    REQUIRE(engine->Submit(std::move(alone)).ok());
  }
  for (uint64_t id = 10; id < 14; ++id) {
    sink.AwaitEnd(id);
    sink.AwaitEnd(id + 10);
    CHECK(sink.transcript(id).token_ids() == sink.transcript(id + 10).token_ids());
    const Usage usage = sink.transcript(id).finished->usage;
    CHECK(usage.cached_tokens == usage.prompt_tokens);
  }
}

TEST_CASE("an encoder-decoder's text ends where the context does, and a cancel frees both rings") {
  EngineConfig config = Config("families/t5-relu", GENERATE(from_range(TestDevices())));
  FakeSink sink;
  const std::unique_ptr<Engine> engine = StartEngine(config, sink);
  GenerateRequest request;
  request.request_id = 1;
  request.prompt.assign(100, 9);  // 7 of the 12 blocks
  request.stopping.max_tokens = 1000;
  request.stopping.ignore_eos = true;
  REQUIRE(engine->Submit(std::move(request)).ok());
  sink.AwaitEnd(1);
  CHECK(sink.transcript(1).finished->reason == FinishReason::kContextFull);
  CHECK(sink.transcript(1).tokens.size() == 5 * 16);
  request = {};
  request.request_id = 2;
  request.prompt.assign(100, 9);
  request.stopping.max_tokens = 70;
  request.stopping.ignore_eos = true;
  REQUIRE(engine->Submit(std::move(request)).ok());
  sink.AwaitTokens(2, 3);
  engine->Cancel(2);
  sink.AwaitEnd(2);
  CHECK(engine->load().device_blocks_free == engine->load().device_blocks);
}

TEST_CASE("what an encoder-decoder has no meaning for is refused") {
  EngineConfig config = Config("families/t5-relu");
  FakeSink sink;
  const std::unique_ptr<Engine> engine = StartEngine(config, sink);
  const auto refused = [&](GenerateRequest request) {
    const absl::Status status = engine->Submit(std::move(request));
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  GenerateRequest echo = RandomRequest(1);
  echo.output.prompt_logprobs = true;
  CHECK(refused(std::move(echo)) ==
        "output.echo: the model reads the prompt with its encoder, which predicts none of its "
        "tokens");
  GenerateRequest turn = RandomRequest(1);
  turn.turn.emplace().session_id = "a";
  CHECK(refused(std::move(turn)) ==
        "session: the model reads a prompt whole with its encoder and has no sessions");
  GenerateRequest longest = RandomRequest(1);
  longest.prompt.assign(177, 3);
  CHECK(refused(std::move(longest)) ==
        "prompt: 177 tokens are more than 176, what the context holds");
  absl::Status created;
  absl::Notification answered;
  engine->CreateSession("", {}, [&](const absl::StatusOr<SessionInfo>& info) {
    created = info.status();
    answered.Notify();
  });
  answered.WaitForNotification();
  CHECK(created.code() == absl::StatusCode::kFailedPrecondition);
  CHECK(created.message() == "the model reads a prompt whole with its encoder and has no sessions");

  config.rings.overflow = OverflowPolicy::kSlide;
  CHECK(Engine::Plan(config).status().message() ==
        "rings.overflow: an encoded prompt stays as long as the text behind it");
  config = Config("families/t5-relu");
  config.sessions.share_prefixes = true;
  CHECK(Engine::Plan(config).status().message() ==
        "sessions.share_prefixes: an encoder reads a prompt whole: no two begin with equal blocks");
  config = Config("families/t5-relu");
  config.speculation.method = SpeculationMethod::kLookup;
  CHECK(Engine::Plan(config).status().message() ==
        "speculation.method: an encoder-decoder does not guess ahead; say \"off\"");
}

}  // namespace
}  // namespace ringserve
