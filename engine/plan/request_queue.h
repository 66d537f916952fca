// What other threads leave for the engine thread: new requests, cancels, pauses, and calls to be
// made there. Bounded by the number of requests that wait for a place in the batch, wherever they
// are kept while they wait, and by kMaxCalls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <absl/time/time.h>

#include "engine/base/status.h"
#include "engine/request.h"

namespace ringserve {

struct QueuedRequest {
  GenerateRequest request;
  absl::Time arrival_time;
  int64_t arrival = 0;  // rank in the order of submission
  bool is_paused = false;
  std::optional<uint64_t> leader = std::nullopt;  // of a sibling: whose prompt it shares
};

struct RequestCommand {
  enum class Kind { kCancel, kPause, kResume };
  uint64_t request_id = 0;
  Kind kind = Kind::kCancel;
};

// Each in order. A command is never taken before the request that it names.
struct News {
  std::vector<std::function<void()>> releases;
  std::vector<QueuedRequest> requests;
  std::vector<RequestCommand> commands;
  std::vector<std::function<void()>> calls;
};

class RequestQueue {
 public:
  static constexpr size_t kMaxCalls = 65536;

  // At most `max_waiting` requests wait beyond those for which the batch has room.
  RequestQueue(int32_t max_waiting, int32_t max_running)
      : max_waiting_(max_waiting), max_running_(max_running) {}

  // Any thread. RESOURCE_EXHAUSTED if the queue has no room for the request and its siblings,
  // INVALID_ARGUMENT if it never has; after Close, its status.
  absl::Status Push(GenerateRequest request, absl::Time now);
  // What Push would say of a request without siblings.
  absl::Status CheckPush() const;
  void Command(RequestCommand command);
  // `call` is to be made on the engine thread, exactly once if the answer is OK. RESOURCE_EXHAUSTED
  // if kMaxCalls wait; after Close, its status.
  absl::Status Post(std::function<void()> call);
  // The same, of the engine's own: never refused.
  void PostOwn(std::function<void()> call);
  // The same, and made before any request that is pushed later is looked at: it frees what such a
  // request may need.
  void PostRelease(std::function<void()> call);
  // Later pushes get `status`; the first call decides.
  void Close(absl::Status status);
  // Live ones are to end by then.
  void SetDrainDeadline(absl::Time deadline);
  // The engine thread is to end.
  void Stop();
  // Returns when no request is live and the last one's end was told.
  void AwaitIdle();
  int64_t num_waiting() const;
  // True if a cancel of the request waits to be taken.
  bool HasCancel(uint64_t request_id) const;

  // The engine thread. Replaces all by what came since the last call.
  void Take(News& news);
  // A request that was taken has left: to run, or for ever.
  void OnAdmitted();
  void OnEnded(bool was_running);
  // The sink knows of all that have ended.
  void OnPublished();
  // Returns when there is something to take, at `deadline`, or when Stop was called.
  void WaitForWork(absl::Time deadline);
  // Returns when there is something to take, stopped or not.
  void AwaitNews();
  bool is_stopped() const;
  absl::Time drain_deadline() const;

 private:
  absl::Status CheckRoom(int64_t count) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int64_t max_waiting_;
  const int64_t max_running_;
  mutable absl::Mutex mutex_;
  News news_ ABSL_GUARDED_BY(mutex_);
  absl::Status closed_ ABSL_GUARDED_BY(mutex_);
  absl::Time drain_deadline_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  int64_t num_waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t num_running_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t next_arrival_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t num_untold_ ABSL_GUARDED_BY(mutex_) = 0;  // have ended
  bool has_news_ ABSL_GUARDED_BY(mutex_) = false;
  bool is_stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace ringserve
