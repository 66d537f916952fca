// An engine whose every event a test says, and which remembers what it was asked.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include "server/engine_port.h"

namespace ringserve {

class ScriptedEngine final : public EnginePort {
 public:
  explicit ScriptedEngine(EventSink& sink) : sink_(sink) {}

  absl::Status Submit(GenerateRequest request) override {
    RequestLimits limits = this->limits();
    if (absl::Status status = CheckGenerateRequest(request, limits); !status.ok()) {
      return status;
    }
    const absl::MutexLock lock(&mutex_);
    if (!refusal_.ok()) {
      return refusal_;
    }
    const uint64_t id = request.request_id;
    submitted_.push_back(id);
    for (const Sibling& sibling : request.siblings) {
      requests_[sibling.request_id] = {};
    }
    requests_[id] = std::move(request);
    return absl::OkStatus();
  }

  void Cancel(uint64_t request_id) override {
    const absl::MutexLock lock(&mutex_);
    cancelled_.insert(request_id);
  }

  void SetPaused(uint64_t request_id, bool paused) override {
    const absl::MutexLock lock(&mutex_);
    if (paused) {
      paused_.insert(request_id);
      ++num_pauses_;
    } else {
      paused_.erase(request_id);
    }
  }

  void Drain(absl::Time deadline) override {
    const absl::MutexLock lock(&mutex_);
    drain_deadline_ = deadline;
    draining_ = true;
    mutex_.Await(absl::Condition(&drained_));
  }

  EngineLoad load() const override { return {}; }

  RequestLimits limits() const override {
    return {.vocab_size = 4096, .max_prompt_tokens = 1000, .max_context_tokens = 1000};
  }

  // What the test does.
  void Refuse(absl::Status status) {
    const absl::MutexLock lock(&mutex_);
    refusal_ = std::move(status);
  }

  // The id of the nth request ever submitted.
  uint64_t AwaitRequest(size_t n = 0) {
    const absl::MutexLock lock(&mutex_);
    const auto here = [&] {
      mutex_.AssertHeld();
      return submitted_.size() > n;
    };
    mutex_.Await(absl::Condition(&here));
    return submitted_[n];
  }

  void AwaitCancel(uint64_t request_id) {
    const absl::MutexLock lock(&mutex_);
    const auto cancelled = [&] {
      mutex_.AssertHeld();
      return cancelled_.count(request_id) > 0;
    };
    mutex_.Await(absl::Condition(&cancelled));
  }

  void AwaitDrain() {
    const absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&draining_));
  }

  void FinishDrain() {
    const absl::MutexLock lock(&mutex_);
    drained_ = true;
  }

  void AwaitResume(uint64_t request_id) {
    const absl::MutexLock lock(&mutex_);
    const auto runs = [&] {
      mutex_.AssertHeld();
      return paused_.count(request_id) == 0;
    };
    mutex_.Await(absl::Condition(&runs));
  }

  bool is_paused(uint64_t request_id) const {
    const absl::MutexLock lock(&mutex_);
    return paused_.count(request_id) > 0;
  }

  bool is_cancelled(uint64_t request_id) const {
    const absl::MutexLock lock(&mutex_);
    return cancelled_.count(request_id) > 0;
  }

  int num_pauses() const {
    const absl::MutexLock lock(&mutex_);
    return num_pauses_;
  }

  // Moves it out, to look at.
  GenerateRequest TakeRequest(uint64_t request_id) {
    const absl::MutexLock lock(&mutex_);
    return std::move(requests_[request_id]);
  }

  template <typename Event>
  void Say(uint64_t request_id, Event event) {
    if constexpr (std::is_same_v<Event, FinishedEvent> || std::is_same_v<Event, FailedEvent>) {
      const absl::MutexLock lock(&mutex_);
      requests_.erase(request_id);
    }
    std::vector<TokenEvent> events;
    events.push_back({.request_id = request_id, .event = std::move(event)});
    sink_.Publish(events);
  }

  void SayToken(uint64_t request_id, int64_t index, int32_t token_id) {
    SampledTokenEvent event;
    event.index = index;
    event.token.token = {.token_id = token_id, .logprob = -0.5F};
    Say(request_id, std::move(event));
  }

  // Ends what is still live, so that a test that failed does not hang.
  void FailAll() {
    std::map<uint64_t, GenerateRequest> live;
    {
      const absl::MutexLock lock(&mutex_);
      live.swap(requests_);
      drained_ = true;
    }
    for (const auto& [request_id, request] : live) {
      SayFailed(request_id, absl::CancelledError("the test is over"));
    }
  }

  void SayFailed(uint64_t request_id, absl::Status status) {
    Say(request_id, FailedEvent{.status = std::move(status), .usage = {}});
  }

 private:
  EventSink& sink_;
  mutable absl::Mutex mutex_;
  absl::Status refusal_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint64_t> submitted_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, GenerateRequest> requests_ ABSL_GUARDED_BY(mutex_);  // live
  std::set<uint64_t> cancelled_ ABSL_GUARDED_BY(mutex_);
  std::set<uint64_t> paused_ ABSL_GUARDED_BY(mutex_);
  int num_pauses_ ABSL_GUARDED_BY(mutex_) = 0;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool drained_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time drain_deadline_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ringserve
