#include "server/event_guard.h"

#include <string>
#include <variant>

#include <fmt/format.h>

namespace ringserve {
namespace {

bool IsFinal(const TokenEvent& event) {
  return std::holds_alternative<FinishedEvent>(event.event) ||
         std::holds_alternative<FailedEvent>(event.event);
}

}  // namespace

std::vector<uint64_t> RequestIds(const GenerateRequest& request) {
  std::vector<uint64_t> ids = {request.request_id};
  for (const Sibling& sibling : request.siblings) {
    ids.push_back(sibling.request_id);
  }
  return ids;
}

absl::Status EventGuard::Expect(const GenerateRequest& request) {
  const absl::MutexLock lock(&mutex_);
  if (!given_up_.ok()) {
    return absl::UnavailableError(std::string(given_up_.message()));
  }
  for (const uint64_t id : RequestIds(request)) {
    live_.insert(id);
  }
  return absl::OkStatus();
}

void EventGuard::Forget(std::span<const uint64_t> request_ids) {
  const absl::MutexLock lock(&mutex_);
  for (const uint64_t id : request_ids) {
    live_.erase(id);
  }
}

void EventGuard::Publish(std::span<TokenEvent> events) {
  const absl::MutexLock lock(&mutex_);
  if (!given_up_.ok()) {
    return;
  }
  for (const TokenEvent& event : events) {
    if (IsFinal(event)) {
      live_.erase(event.request_id);
    }
  }
  sink_.Publish(events);
}

int64_t EventGuard::DeliveredTokens(uint64_t request_id) {
  const absl::MutexLock lock(&mutex_);
  return given_up_.ok() ? sink_.DeliveredTokens(request_id) : 0;
}

void EventGuard::Charge(const std::string& owner, const HeldMemory& held) {
  sink_.Charge(owner, held);
}

void EventGuard::GiveUp(const absl::Status& status) {
  const absl::MutexLock lock(&mutex_);
  if (!given_up_.ok()) {
    return;
  }
  given_up_ = status;
  std::vector<TokenEvent> events;
  for (const uint64_t id : live_) {
    events.push_back({.request_id = id, .event = FailedEvent{.status = status, .usage = {}}});
  }
  live_.clear();
  if (!events.empty()) {
    sink_.Publish(events);
  }
}

bool EventGuard::has_given_up() const {
  const absl::MutexLock lock(&mutex_);
  return !given_up_.ok();
}

}  // namespace ringserve
