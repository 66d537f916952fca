#include "server/stream_pump.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <limits>
#include <utility>
#include <variant>

#include "engine/base/check.h"
#include "server/connection.h"

namespace ringserve {
namespace {

bool IsFinal(const TokenEvent& event) {
  return std::holds_alternative<FinishedEvent>(event.event) ||
         std::holds_alternative<FailedEvent>(event.event);
}

bool IsInternalError(const TokenEvent& event) {
  const auto* failed = std::get_if<FailedEvent>(&event.event);
  return failed != nullptr && failed->status.code() == absl::StatusCode::kInternal;
}

}  // namespace

const std::shared_ptr<Connection>& EventTarget::connection() const {
  static const std::shared_ptr<Connection> none;
  return none;
}

int64_t EventTarget::DeliveredTokens() {
  return std::numeric_limits<int64_t>::max();
}

StreamPump::StreamPump() : thread_([this] { Run(); }) {}

StreamPump::~StreamPump() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void StreamPump::OnInternalError(std::function<void()> hook) {
  absl::MutexLock lock(&hook_mutex_);
  on_internal_error_ = std::move(hook);
}

uint64_t StreamPump::Register(EventTarget& target, int32_t count) {
  absl::MutexLock lock(&targets_mutex_);
  const uint64_t first = next_id_;
  for (int32_t i = 0; i < count; ++i) {
    targets_.emplace(next_id_++, &target);
  }
  return first;
}

void StreamPump::Unregister(uint64_t first_id, int32_t count) {
  absl::MutexLock lock(&targets_mutex_);
  for (int32_t i = 0; i < count; ++i) {
    targets_.erase(first_id + static_cast<uint64_t>(i));
  }
}

void StreamPump::Publish(std::span<TokenEvent> events) {
  absl::MutexLock lock(&mutex_);
  queue_.insert(
      queue_.end(), std::make_move_iterator(events.begin()), std::make_move_iterator(events.end()));
}

int64_t StreamPump::DeliveredTokens(uint64_t request_id) {
  absl::MutexLock lock(&targets_mutex_);
  const auto it = targets_.find(request_id);
  RS_CHECK(it != targets_.end());
  return it->second->DeliveredTokens();
}

void StreamPump::OnCharge(std::function<void(const std::string&, const HeldMemory&)> hook) {
  absl::MutexLock lock(&charge_mutex_);
  on_charge_ = std::move(hook);
}

void StreamPump::Charge(const std::string& owner, const HeldMemory& held) {
  absl::MutexLock lock(&charge_mutex_);
  if (on_charge_) {
    on_charge_(owner, held);
  }
}

void StreamPump::Run() {
  std::vector<TokenEvent> events;
  for (;;) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &StreamPump::HasWork));
      if (queue_.empty()) {
        return;
      }
      events.swap(queue_);
    }
    Deliver(events);
    events.clear();
  }
}

void StreamPump::Deliver(std::vector<TokenEvent>& events) {
  round_.clear();
  bool internal_error = false;
  {
    absl::MutexLock lock(&targets_mutex_);
    for (TokenEvent& event : events) {
      const auto it = targets_.find(event.request_id);
      RS_CHECK(it != targets_.end());
      EventTarget* target = it->second;
      if (IsFinal(event)) {
        targets_.erase(it);
      }
      internal_error = internal_error || IsInternalError(event);
      target->Push(std::move(event));
      round_.push_back({target->connection().get(), target});
    }
  }
  // Streams of one connection side by side, each once.
  std::sort(round_.begin(), round_.end());
  round_.erase(std::unique(round_.begin(), round_.end()), round_.end());
  {
    absl::MutexLock lock(&flush_mutex_);
    FlushRound();
  }
  if (internal_error) {
    absl::MutexLock lock(&hook_mutex_);
    if (on_internal_error_) {
      on_internal_error_();
    }
  }
}

void StreamPump::FlushRound() {
  for (size_t begin = 0; begin < round_.size();) {
    size_t end = begin + 1;
    while (end < round_.size() && round_[end].first == round_[begin].first) {
      ++end;
    }
    // A share of it: flushed targets may be gone, and theirs with them.
    std::shared_ptr<Connection> corked;
    if (end - begin > 1 && round_[begin].first != nullptr) {
      corked = round_[begin].second->connection();
      corked->Cork();
    }
    for (size_t i = begin; i < end; ++i) {
      round_[i].second->Flush();
    }
    if (corked != nullptr) {
      corked->Uncork();
    }
    begin = end;
  }
}

}  // namespace ringserve
