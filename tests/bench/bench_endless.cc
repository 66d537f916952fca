#include "tests/bench/bench_endless.h"

#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <unistd.h>
#include <variant>
#include <vector>

#include <absl/synchronization/notification.h>
#include <fmt/format.h>

#include "engine/engine.h"
#include "engine/request.h"

namespace ringserve {
namespace {

// Resident set of this process, in bytes.
int64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  int64_t size = 0;
  int64_t resident = 0;
  file >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

// Takes the time of every window on the engine thread; stores nothing that grows with the stream
// but one entry per window, reserved beforehand.
class WindowSink : public EventSink {
 public:
  struct Window {
    double microseconds_per_token;
    int64_t resident_bytes;
  };

  explicit WindowSink(const EndlessBenchOptions& options) : window_(options.window) {
    windows_.reserve(static_cast<size_t>(options.num_tokens / options.window) + 1);
  }

  void Publish(std::span<TokenEvent> events) override {
    for (TokenEvent& event : events) {
      if (const auto* token = std::get_if<SampledTokenEvent>(&event.event)) {
        Count(token->index);
      } else if (const auto* notice = std::get_if<ContextNoticeEvent>(&event.event)) {
        evicted_ += notice->evicted_tokens;
      } else if (std::holds_alternative<FinishedEvent>(event.event)) {
        done_.Notify();
      } else if (auto* failed = std::get_if<FailedEvent>(&event.event)) {
        status_ = std::move(failed->status);
        done_.Notify();
      }
    }
  }

  absl::Status Wait() {
    done_.WaitForNotification();
    return status_;
  }

  const std::vector<Window>& windows() const { return windows_; }

  int64_t evicted() const { return evicted_; }

 private:
  using Clock = std::chrono::steady_clock;

  void Count(int64_t index) {
    if ((index + 1) % window_ != 0) {
      return;
    }
    const auto now = Clock::now();
    const double micros = std::chrono::duration<double, std::micro>(now - last_).count();
    windows_.push_back({micros / window_, ResidentBytes()});
    if (windows_.size() % 10 == 1) {
      std::printf("  %8ld tokens  %7.1f us/token  %8.2f MiB resident\n",
                  static_cast<long>(index + 1),
                  windows_.back().microseconds_per_token,
                  static_cast<double>(windows_.back().resident_bytes) / (1 << 20));
      std::fflush(stdout);
    }
    last_ = Clock::now();
  }

  const int32_t window_;
  std::vector<Window> windows_;
  Clock::time_point last_ = Clock::now();
  int64_t evicted_ = 0;
  absl::Status status_;
  absl::Notification done_;
};

}  // namespace

absl::Status BenchEndless(const EndlessBenchOptions& options) {
  if (options.config.rings.overflow != OverflowPolicy::kSlide) {
    return absl::InvalidArgumentError("rings.overflow: an endless stream needs \"slide\"");
  }
  if (options.window < 1 || options.num_tokens < 3 * options.window) {
    return absl::InvalidArgumentError(fmt::format(
        "tokens: {} are less than three windows of {}", options.num_tokens, options.window));
  }
  WindowSink sink(options);
  ASSIGN_OR_RETURN(const auto engine, Engine::Create({.config = options.config}, sink));
  std::printf("endless stream: %s, %d tokens, buffer_size %ld, sink_size %d, %s\n",
              options.config.model.name.c_str(),
              options.num_tokens,
              static_cast<long>(options.config.rings.buffer_size),
              options.config.rings.sink_size,
              engine->device_description().c_str());
  GenerateRequest request;
  request.request_id = 1;
  request.prompt = {0};
  request.sampling.temperature = 1;
  request.stopping.max_tokens = options.num_tokens;
  request.stopping.ignore_eos = true;
  RETURN_IF_ERROR(engine->Submit(std::move(request)));
  RETURN_IF_ERROR(sink.Wait());

  // The first window warms up and fills the ring; its end is where memory is first read.
  const auto& windows = sink.windows();
  const auto& early = windows[1];
  const auto& late = windows.back();
  std::printf(
      "  evicted %ld tokens, reprefilled %ld\n"
      "  resident memory at the end minus at %d tokens: %+.2f MiB\n"
      "  time per token at the end / after %d tokens: %.1f / %.1f us = %.3f\n",
      static_cast<long>(sink.evicted()),
      static_cast<long>(engine->load().reprefilled_tokens),
      options.window,
      static_cast<double>(late.resident_bytes - windows[0].resident_bytes) / (1 << 20),
      options.window,
      late.microseconds_per_token,
      early.microseconds_per_token,
      late.microseconds_per_token / early.microseconds_per_token);
  return absl::OkStatus();
}

}  // namespace ringserve
