#include "tests/bench/bench_engine.h"

#include <utility>
#include <variant>

#include <absl/synchronization/notification.h>

namespace ringserve {

absl::StatusOr<std::unique_ptr<BenchEngine>> BenchEngine::Create(const ModelConfig& shape,
                                                                 EngineConfig config) {
  auto bench = std::unique_ptr<BenchEngine>(new BenchEngine(shape));
  config.model = {.name = "bench", .path = bench->folder_.path()};
  config.device = DevicePolicy::kCpu;
  Engine::Options options;
  options.config = std::move(config);
  ASSIGN_OR_RETURN(bench->engine_, Engine::Create(std::move(options), *bench));
  return bench;
}

BenchEngine::~BenchEngine() {
  engine_.reset();  // it names this until it ends
}

uint64_t BenchEngine::Submit(const BenchPrompt& prompt) {
  GenerateRequest request;
  BenchStream stream;
  {
    absl::MutexLock lock(&mutex_);
    request.request_id = next_id_++;
    stream.first_publish = num_publishes_;
    stream.submitted = BenchStream::Clock::now();
    stream.tokens.reserve(static_cast<size_t>(prompt.max_tokens));
    streams_.emplace(request.request_id, std::move(stream));
  }
  const uint64_t id = request.request_id;
  for (int64_t i = 0; i < prompt.num_tokens; ++i) {
    const auto mixed = static_cast<int64_t>(prompt.seed * 31) + i * 7919 + 13;
    request.prompt.push_back(static_cast<int32_t>(mixed % vocab_size_));
  }
  request.sampling.seed = prompt.seed;
  request.stopping.max_tokens = prompt.max_tokens;
  request.stopping.ignore_eos = true;
  if (!prompt.session_id.empty()) {
    request.turn = SessionTurn{.session_id = prompt.session_id, .expected_position = {}};
  }
  if (absl::Status refused = engine_->Submit(std::move(request)); !refused.ok()) {
    absl::MutexLock lock(&mutex_);
    streams_.at(id).status = std::move(refused);
    streams_.at(id).has_ended = true;
  }
  return id;
}

BenchStream BenchEngine::Wait(uint64_t id) {
  absl::MutexLock lock(&mutex_);
  BenchStream& stream = streams_.at(id);
  mutex_.Await(absl::Condition(&stream.has_ended));
  BenchStream ended = std::move(stream);
  streams_.erase(id);
  return ended;
}

void BenchEngine::WaitForTokens(uint64_t id, size_t num_tokens) {
  absl::MutexLock lock(&mutex_);
  const BenchStream& stream = streams_.at(id);
  const auto has_them = [&] { return stream.has_ended || stream.tokens.size() >= num_tokens; };
  mutex_.Await(absl::Condition(&has_them));
}

absl::StatusOr<BenchStream> BenchEngine::Run(const BenchPrompt& prompt) {
  BenchStream stream = Wait(Submit(prompt));
  RETURN_IF_ERROR(stream.status);
  return stream;
}

absl::StatusOr<SessionInfo> BenchEngine::Ask(const std::function<void(SessionReply)>& call) {
  absl::StatusOr<SessionInfo> answer = absl::InternalError("no answer");
  absl::Notification answered;
  call([&](absl::StatusOr<SessionInfo> info) {
    answer = std::move(info);
    answered.Notify();
  });
  answered.WaitForNotification();
  return answer;
}

int64_t BenchEngine::num_publishes() {
  absl::MutexLock lock(&mutex_);
  return num_publishes_;
}

void BenchEngine::Publish(std::span<TokenEvent> events) {
  const auto now = BenchStream::Clock::now();
  absl::MutexLock lock(&mutex_);
  ++num_publishes_;
  for (TokenEvent& event : events) {
    BenchStream& stream = streams_.at(event.request_id);
    if (std::holds_alternative<SampledTokenEvent>(event.event)) {
      if (stream.tokens.empty()) {
        stream.first_token = now;
      }
      stream.tokens.push_back(now);
    } else if (const auto* finished = std::get_if<FinishedEvent>(&event.event)) {
      stream.usage = finished->usage;
      stream.last_publish = num_publishes_;
      stream.has_ended = true;
    } else if (auto* failed = std::get_if<FailedEvent>(&event.event)) {
      stream.usage = failed->usage;
      stream.status = std::move(failed->status);
      stream.last_publish = num_publishes_;
      stream.has_ended = true;
    }
  }
}

}  // namespace ringserve
