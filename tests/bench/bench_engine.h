// An engine of a random model for benchmarks of sessions: requests that wait for their end, session
// calls that wait for their answer, and when every token came.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include "engine/base/status.h"
#include "engine/engine.h"
#include "engine/request.h"
#include "engine/session_info.h"
#include "tests/bench/bench_folder.h"

namespace ringserve {

// What became of one request.
struct BenchStream {
  using Clock = std::chrono::steady_clock;

  Clock::time_point submitted;
  Clock::time_point first_token;
  std::vector<Clock::time_point> tokens;
  int64_t first_publish = 0;  // Publish calls before it was submitted
  int64_t last_publish = 0;   // and with its last event
  absl::Status status;
  Usage usage;
  bool has_ended = false;

  double FirstTokenSeconds() const {
    return std::chrono::duration<double>(first_token - submitted).count();
  }
};

struct BenchPrompt {
  int64_t num_tokens = 1;
  int32_t max_tokens = 1;
  uint64_t seed = 0;
  std::string session_id{};  // "": the request stands alone
};

class BenchEngine final : public EventSink {
 public:
  // `config` without a model: that of `shape`, in bf16 on the CPU.
  static absl::StatusOr<std::unique_ptr<BenchEngine>> Create(const ModelConfig& shape,
                                                             EngineConfig config);
  ~BenchEngine() override;

  BenchEngine(const BenchEngine&) = delete;
  BenchEngine& operator=(const BenchEngine&) = delete;

  Engine& engine() { return *engine_; }

  // Ids count from 1; a refusal is what Wait returns.
  uint64_t Submit(const BenchPrompt& prompt);
  // Until the request has ended, or has so many tokens.
  BenchStream Wait(uint64_t id);
  void WaitForTokens(uint64_t id, size_t num_tokens);
  // Submit and Wait; an error if it failed.
  absl::StatusOr<BenchStream> Run(const BenchPrompt& prompt);
  // Waits for the answer of a session call.
  absl::StatusOr<SessionInfo> Ask(const std::function<void(SessionReply)>& call);

  int64_t num_publishes();

  void Publish(std::span<TokenEvent> events) override;

 private:
  explicit BenchEngine(const ModelConfig& shape) : folder_(shape), vocab_size_(shape.vocab_size) {}

  BenchFolder folder_;
  int32_t vocab_size_;
  absl::Mutex mutex_;
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  int64_t num_publishes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::unordered_map<uint64_t, BenchStream> streams_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Engine> engine_;
};

}  // namespace ringserve
