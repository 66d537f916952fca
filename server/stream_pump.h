// The thread that carries engine events to the streams that asked for them. Engines publish once
// per step and go on; everything that costs time per token (decoding text, building messages,
// writing) happens here, for all streams of the step together. The pump never waits for a stream.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include "engine/request.h"

namespace ringserve {

class Connection;

// Where the events of one request go. All methods on the pump thread; none may block.
class EventTarget {
 public:
  virtual ~EventTarget() = default;
  // One event; the target only stores it.
  virtual void Push(TokenEvent&& event) = 0;
  // All events of this round are in. After a round with the last of its final events the pump never
  // touches the target again, so this call may let it go.
  virtual void Flush() = 0;

  // EventSink::DeliveredTokens. Any thread.
  virtual int64_t DeliveredTokens();

  // Targets of one connection are flushed one after the other, and what they write leaves together.
  // Null: on its own. Constant.
  virtual const std::shared_ptr<Connection>& connection() const;
};

class StreamPump final : public EventSink {
 public:
  StreamPump();
  // Engines that publish here must have stopped. Delivers what is queued first.
  ~StreamPump() override;
  StreamPump(const StreamPump&) = delete;
  StreamPump& operator=(const StreamPump&) = delete;

  // Called on the pump thread after requests ended INTERNAL and were told so: a device may be lost.
  // Null: none; it returns when no call of the one before is under way. Not from within a hook.
  void OnInternalError(std::function<void()> hook);

  // Called on engine threads with what owners have held; must not block. Null: none. It returns
  // when no call of the one before is under way. Not from within a hook.
  void OnCharge(std::function<void(const std::string& owner, const HeldMemory& held)> hook);

  // The first of `count` new request ids in a row, unique in this process. `target` must live until
  // the final events of all are flushed or they are unregistered.
  uint64_t Register(EventTarget& target, int32_t count = 1);
  // For requests that no engine took: nothing has been or will be published for them.
  void Unregister(uint64_t first_id, int32_t count = 1);

  // Called by engine threads; never waits for a stream. What can pile up is bounded by the streams:
  // one that does not keep up is paused (generate_call.h).
  void Publish(std::span<TokenEvent> events) override;

  int64_t DeliveredTokens(uint64_t request_id) override;
  void Charge(const std::string& owner, const HeldMemory& held) override;

  // Waits while the pump flushes the streams of a round (some microseconds each). For reactions to
  // writes: each write that completes wakes a thread of gRPC, which finds little to do and sleeps
  // again, once per token. Kept waiting here, it finds the whole round done.
  void AwaitFlush() { absl::ReaderMutexLock lock(&flush_mutex_); }

 private:
  void Run();
  void Deliver(std::vector<TokenEvent>& events);
  void FlushRound() ABSL_EXCLUSIVE_LOCKS_REQUIRED(flush_mutex_);

  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !queue_.empty() || stopping_;
  }

  absl::Mutex mutex_;
  std::vector<TokenEvent> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  absl::Mutex targets_mutex_;
  uint64_t next_id_ ABSL_GUARDED_BY(targets_mutex_) = 1;
  std::unordered_map<uint64_t, EventTarget*> targets_ ABSL_GUARDED_BY(targets_mutex_);

  absl::Mutex hook_mutex_;  // held while the hook runs
  std::function<void()> on_internal_error_ ABSL_GUARDED_BY(hook_mutex_);

  absl::Mutex charge_mutex_;  // held while the hook runs
  std::function<void(const std::string&, const HeldMemory&)> on_charge_
      ABSL_GUARDED_BY(charge_mutex_);

  absl::Mutex flush_mutex_;  // held while flushing; taken before any other
  // Of the pump thread alone: who has events in this round, and on which connection. Kept to keep
  // its memory.
  std::vector<std::pair<Connection*, EventTarget*>> round_;

  std::thread thread_;
};

}  // namespace ringserve
