// Generates what tests/e2e/constraint_peers.py asks, with the embedded model, all requests of the
// input in one engine: one JSON object per line, {"schema": text, "seed", "max_tokens", "n"?};
// answers one per line and completion, in the order of the questions: {"text", "reason", "met",
// "digest"} or {"error"}.
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include <absl/synchronization/mutex.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine/base/check.h"
#include "engine/constraint/constraint.h"
#include "engine/engine.h"
#include "engine/text/tokenizer.h"
#include "tests/support/fake_sink.h"

namespace ringserve {
namespace {

using nlohmann::json;

EngineConfig Config(const std::string& model_dir, int32_t max_batch) {
  EngineConfig config;
  config.model = {.name = "fairytale-5m", .path = model_dir};
  config.rings = {.buffer_size = 1024, .block_size = 64};
  config.attention = {.tile_size = 64};
  config.scheduler = {.prefill_size = 512, .max_batch = max_batch, .max_queue = 100'000};
  config.sessions = {.max_sessions = 1, .share_prefixes = false, .prefix_groups = {}};
  config.device = DevicePolicy::kCpu;
  return config;
}

const char* Name(FinishReason reason) {
  return reason == FinishReason::kStopToken ? "stop" : "length";
}

class Dump {
 public:
  Dump(const std::string& model_dir, int32_t max_batch) {
    auto tokenizer = Tokenizer::Load(model_dir);
    RS_CHECK(tokenizer.ok());
    tokenizer_ = *std::move(tokenizer);
    Engine::Options options;
    options.config = Config(model_dir, max_batch);
    auto engine = Engine::Create(std::move(options), sink_);
    RS_CHECK(engine.ok());
    engine_ = *std::move(engine);
    const auto vocabulary = Vocabulary::Of(*tokenizer_, engine_->model_config().vocab_size);
    RS_CHECK(vocabulary.ok());
    compiler_ = std::make_unique<ConstraintCompiler>(*vocabulary);
  }

  // The ids of its completions; none: `error` says why.
  std::vector<uint64_t> Ask(const json& question, std::string* error) {
    const auto constraint = compiler_->JsonSchema(question["schema"].get<std::string>());
    if (!constraint.ok()) {
      *error = std::string(constraint.status().message());
      return {};
    }
    GenerateRequest request;
    request.request_id = ++last_id_;
    request.prompt = *tokenizer_->Encode(question.value("prompt", "Once upon a time"), {});
    request.sampling.seed = question["seed"].get<uint64_t>();
    request.stopping.max_tokens = question["max_tokens"].get<int32_t>();
    request.constraint = (*constraint)->Begin();
    std::vector<uint64_t> ids = {request.request_id};
    for (int i = 1; i < question.value("n", 1); ++i) {
      Sibling sibling;
      sibling.request_id = ++last_id_;
      sibling.seed = request.sampling.seed + static_cast<uint64_t>(i);
      sibling.constraint = (*constraint)->Begin();
      ids.push_back(sibling.request_id);
      request.siblings.push_back(std::move(sibling));
    }
    const absl::Status status = engine_->Submit(std::move(request));
    if (!status.ok()) {
      *error = status.ToString();
      return {};
    }
    return ids;
  }

  json Answer(uint64_t id) {
    sink_.AwaitEnd(id);
    const Transcript transcript = sink_.Take(id);
    if (transcript.failed.has_value()) {
      return {{"error", transcript.failed->status.ToString()}};
    }
    std::vector<int32_t> ids = transcript.token_ids();
    if (transcript.finished->reason == FinishReason::kStopToken) {
      ids.pop_back();
    }
    return {{"text", *tokenizer_->Decode(ids, /*skip_special_tokens=*/true)},
            {"reason", Name(transcript.finished->reason)},
            {"met", transcript.finished->constraint_met.value()},
            {"digest", fmt::format("{:016x}", transcript.finished->replay_digest)}};
  }

 private:
  FakeSink sink_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ConstraintCompiler> compiler_;
  std::unique_ptr<Engine> engine_;
  uint64_t last_id_ = 0;
};

}  // namespace
}  // namespace ringserve

// usage: constraint_dump MODEL_DIR [MAX_BATCH]
// NOLINTNEXTLINE(bugprone-exception-escape): a malformed request may end this test helper.
int main(int argc, char** argv) {
  using nlohmann::json;
  RS_CHECK(argc >= 2);
  ringserve::Dump dump(argv[1], argc > 2 ? std::atoi(argv[2]) : 32);
  std::vector<std::pair<std::vector<uint64_t>, std::string>> asked;
  for (std::string line; std::getline(std::cin, line);) {
    std::string error;
    std::vector<uint64_t> ids = dump.Ask(json::parse(line), &error);
    asked.emplace_back(std::move(ids), error);
  }
  for (const auto& [ids, error] : asked) {
    if (ids.empty()) {
      std::cout << json{{"error", error}}.dump() << "\n";
    }
    for (const uint64_t id : ids) {
      std::cout << dump.Answer(id).dump() << "\n";
    }
  }
  return 0;
}
