// One request's stream of events, whichever call reads it: numbers and keeps what goes out, pauses
// the sequences of a reader that lags, and knows what the client was sent. Each completion is a
// request of the engine's; if one fails the others are cancelled.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <grpcpp/support/slice.h>

#include "engine/base/status.h"
#include "server/caller_accounts.h"
#include "server/connection.h"
#include "server/event_buffer.h"
#include "server/served_model.h"
#include "server/stream_pump.h"
#include "server/stream_registry.h"

namespace ringserve {

class GenerateCall;

// Lives while a call reads it, while the registry has it, and until the engine's last word to it
// was flushed. At most one call reads it at a time.
class GenerateStream final : public EventTarget,
                             public std::enable_shared_from_this<GenerateStream> {
 public:
  struct Setup {
    ServedModel& model;
    StreamPump& pump;
    StreamRegistry& registry;
    CallerAccounts& accounts;
    std::string owner;
    std::string request_id;  // "": made here
    bool resumable = false;
    bool keeps_delivered = false;  // what was sent decides what stays in a session
    StreamOptions options;
    std::shared_ptr<Connection> connection;  // may be null
  };

  explicit GenerateStream(Setup setup);

  const std::string& owner() const { return owner_; }

  const std::string& request_id() const { return request_id_; }

  bool resumable() const { return resumable_; }

  // Submits the request, whose events are `call`'s from now on. If the engine refuses it the call
  // is finished.
  void Begin(GenerateCall& call, GenerateRequest request);
  // `call` reads from the event `sequence` on, and who did before is finished. OUT_OF_RANGE;
  // NOT_FOUND if the stream is being given up.
  absl::Status Attach(GenerateCall& call, uint64_t sequence);
  // The reactions of the call.
  void OnWritten(GenerateCall& call, bool ok);
  void OnCancel(GenerateCall& call);

  // Cancels the request; false if it has ended already.
  bool Abort();
  // Nobody attached since `epoch`: cancels a live request, forgets one that ended.
  void Expire(uint64_t epoch);
  void CancelIfUnread();

  // EventTarget, on the pump thread; DeliveredTokens on any.
  void Push(TokenEvent&& event) override;
  void Flush() override;
  int64_t DeliveredTokens() override;

  const std::shared_ptr<Connection>& connection() const override { return connection_; }

 private:
  // An event that went out, as it went out.
  struct Sent {
    uint64_t sequence = 0;
    grpc::Slice bytes;
    int64_t num_tokens = 0;  // of the completion, up to its end
  };

  // Writes the next event or finishes, if it is time; then the mutex is free, and a call that was
  // finished may be gone.
  void Advance() ABSL_UNLOCK_FUNCTION(mutex_);
  // The next event for the reader. False: there is none yet.
  bool TakeNext(Sent& next) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Keep(const Sent& sent) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Cancel();
  void SetPaused(bool paused) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PauseIfBehind() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The reader is gone, and maybe another comes.
  void Detach(GenerateCall& call) ABSL_UNLOCK_FUNCTION(mutex_);
  absl::Status FinalStatus() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  EnginePort& engine_;
  StreamPump& pump_;
  StreamRegistry& registry_;
  CallerAccounts& accounts_;
  const std::string owner_;
  const std::string request_id_;
  const bool resumable_;
  const bool keeps_delivered_;
  const int32_t num_completions_;
  // Of the call that began it, if no other can come. Shared with the listener's table: it forgets
  // the connection when it hangs up.
  const std::shared_ptr<Connection> connection_;
  uint64_t first_engine_id_ = 0;  // of the completions, in a row; set before any event or reaction

  absl::Mutex mutex_;  // taken before the engine's and the registry's
  EventBuffer buffer_ ABSL_GUARDED_BY(mutex_);
  // Until the engine's last word: the stream itself, on behalf of the pump.
  std::shared_ptr<GenerateStream> self_ ABSL_GUARDED_BY(mutex_);
  GenerateCall* call_ ABSL_GUARDED_BY(mutex_) = nullptr;  // who reads
  bool sealed_ ABSL_GUARDED_BY(mutex_) = false;           // the pump has let go of the stream
  bool muted_ ABSL_GUARDED_BY(mutex_) = false;            // what comes is not to be sent any more
  bool aborted_ ABSL_GUARDED_BY(mutex_) = false;
  bool given_up_ ABSL_GUARDED_BY(mutex_) = false;  // nobody came back in time
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancel_when_written_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t delivered_tokens_ ABSL_GUARDED_BY(mutex_) = 0;  // in events whose writing was completed
  uint64_t next_sequence_ ABSL_GUARDED_BY(mutex_) = 0;    // of the next event for the reader
  uint64_t epoch_ ABSL_GUARDED_BY(mutex_) = 0;            // counts detaching, attaching and the end
  std::deque<Sent> kept_ ABSL_GUARDED_BY(mutex_);         // without gaps
  size_t kept_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace ringserve
