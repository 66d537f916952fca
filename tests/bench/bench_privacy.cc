#include "tests/bench/bench_privacy.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include "engine/engine.h"
#include "engine/request.h"

namespace ringserve {
namespace {

using Clock = std::chrono::steady_clock;

// Of one request at a time: when its first token came, and what was found of its prompt.
class FirstTokenSink final : public EventSink {
 public:
  void Publish(std::span<TokenEvent> events) override {
    const auto now = Clock::now();
    const absl::MutexLock lock(&mutex_);
    for (const TokenEvent& event : events) {
      if (std::holds_alternative<SampledTokenEvent>(event.event)) {
        first_token_ = now;
      } else if (const auto* finished = std::get_if<FinishedEvent>(&event.event)) {
        cached_tokens_ = finished->usage.cached_tokens;
        has_ended_ = true;
      } else if (const auto* failed = std::get_if<FailedEvent>(&event.event)) {
        status_.Update(failed->status);
        has_ended_ = true;
      }
    }
  }

  absl::Status Await(Clock::time_point& first_token, int64_t& cached_tokens) {
    const absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&has_ended_));
    has_ended_ = false;
    first_token = first_token_;
    cached_tokens = cached_tokens_;
    return status_;
  }

 private:
  absl::Mutex mutex_;
  bool has_ended_ ABSL_GUARDED_BY(mutex_) = false;
  Clock::time_point first_token_ ABSL_GUARDED_BY(mutex_);
  int64_t cached_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

class Prober {
 public:
  Prober(Engine& engine, FirstTokenSink& sink) : engine_(engine), sink_(sink) {}

  struct Probe {
    double ms = 0;  // to the first token
    int64_t cached_tokens = 0;
  };

  absl::StatusOr<Probe> Ask(const char* owner, const std::vector<int32_t>& prompt) {
    GenerateRequest request;
    request.request_id = ++last_id_;
    request.owner = owner;
    request.prompt = prompt;
    request.stopping.max_tokens = 1;
    const auto started = Clock::now();
    RETURN_IF_ERROR(engine_.Submit(std::move(request)));
    Clock::time_point first_token;
    Probe probe;
    RETURN_IF_ERROR(sink_.Await(first_token, probe.cached_tokens));
    probe.ms = std::chrono::duration<double, std::milli>(first_token - started).count();
    return probe;
  }

 private:
  Engine& engine_;
  FirstTokenSink& sink_;
  uint64_t last_id_ = 0;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

absl::Status BenchPrivacy(const PrivacyBenchOptions& options) {
  EngineConfig config = options.config;
  config.sessions.share_prefixes = true;
  if (options.prompt_len > config.rings.buffer_size) {
    return absl::InvalidArgumentError("prompt-len: more than rings.buffer_size");
  }
  FirstTokenSink sink;
  ASSIGN_OR_RETURN(const auto engine, Engine::Create({.config = config}, sink));
  Prober prober(*engine, sink);
  std::mt19937_64 random(1);
  const auto new_prompt = [&] {
    std::vector<int32_t> prompt(static_cast<size_t>(options.prompt_len));
    for (int32_t& token_id : prompt) {
      token_id =
          static_cast<int32_t>(random() % static_cast<uint64_t>(engine->model_config().vocab_size));
    }
    return prompt;
  };
  std::vector<double> foreign_ms;
  std::vector<double> miss_ms;
  std::vector<double> own_ms;
  std::vector<double> ratios;
  for (int32_t i = 0; i < options.num_probes; ++i) {
    const std::vector<int32_t> known = new_prompt();
    const std::vector<int32_t> unknown = new_prompt();
    RETURN_IF_ERROR(prober.Ask("ann", known).status());
    const bool known_first = i % 2 == 0;
    ASSIGN_OR_RETURN(const Prober::Probe first, prober.Ask("bob", known_first ? known : unknown));
    ASSIGN_OR_RETURN(const Prober::Probe second, prober.Ask("bob", known_first ? unknown : known));
    ASSIGN_OR_RETURN(const Prober::Probe own, prober.Ask("ann", known));
    if (first.cached_tokens + second.cached_tokens != 0 || own.cached_tokens == 0) {
      return absl::InternalError("usage tells of another caller's prompt, or not of one's own");
    }
    foreign_ms.push_back(known_first ? first.ms : second.ms);
    miss_ms.push_back(known_first ? second.ms : first.ms);
    own_ms.push_back(own.ms);
    ratios.push_back(foreign_ms.back() / miss_ms.back());
  }
  std::printf(
      "prefixes of others, %d interleaved probes of %d tokens, %s\n"
      "  first token: another caller's prompt %.3f ms, nobody's %.3f ms: ratio %.3f of the "
      "medians, "
      "%.3f median of the ratios; one's own again %.3f ms\n",
      options.num_probes,
      options.prompt_len,
      engine->device_description().c_str(),
      Median(foreign_ms),
      Median(miss_ms),
      Median(foreign_ms) / Median(miss_ms),
      Median(ratios),
      Median(own_ms));
  return absl::OkStatus();
}

}  // namespace ringserve
