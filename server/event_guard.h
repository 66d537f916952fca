// Stands between an engine and who hears its events. Remembers who is live, so that all can be told
// when the engine itself will say nothing more.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include "engine/base/status.h"
#include "engine/request.h"

namespace ringserve {

// Any thread.
class EventGuard final : public EventSink {
 public:
  // `sink` must outlive the guard.
  explicit EventGuard(EventSink& sink) : sink_(sink) {}

  // Before the request, and its siblings, are submitted: GiveUp will tell them too. The status of
  // GiveUp if that was before.
  absl::Status Expect(const GenerateRequest& request);
  // They were refused, and nothing will be said of them. (By their ids: the request is gone.)
  void Forget(std::span<const uint64_t> request_ids);

  void Publish(std::span<TokenEvent> events) override;
  int64_t DeliveredTokens(uint64_t request_id) override;
  void Charge(const std::string& owner, const HeldMemory& held) override;

  // Every live request fails with `status`, and nothing that the engine says later is heard. Only
  // the first call does anything.
  void GiveUp(const absl::Status& status);
  bool has_given_up() const;

 private:
  EventSink& sink_;
  mutable absl::Mutex mutex_;
  std::unordered_set<uint64_t> live_ ABSL_GUARDED_BY(mutex_);
  absl::Status given_up_ ABSL_GUARDED_BY(mutex_);  // OK: not yet
};

// The ids of a request and its siblings.
std::vector<uint64_t> RequestIds(const GenerateRequest& request);

}  // namespace ringserve
