// One Generate call: a gRPC write reactor with one write in flight, fed by the pump.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "engine/base/status.h"
#include "server/connection.h"
#include "server/event_buffer.h"
#include "server/served_model.h"
#include "server/stream_pump.h"
#include "server/wire.h"

namespace ringserve {

// Our own count of open calls: gRPC would take any number.
struct CallGate {
  const int64_t max_calls;
  std::atomic<int64_t> open = 0;
};

// Owned by itself from Start to OnDone.
class GenerateCall final : public grpc::ServerWriteReactor<OutgoingBytes>, public EventTarget {
 public:
  // Checks, converts and submits; a request that cannot run ends here with its status. `connection`
  // may be null. `gate`, `models` and `pump` must outlive the server.
  static grpc::ServerWriteReactor<OutgoingBytes>* Start(grpc::CallbackServerContext& context,
                                                        const grpc::ByteBuffer& request,
                                                        const ModelSet& models,
                                                        StreamPump& pump,
                                                        CallGate& gate,
                                                        std::shared_ptr<Connection> connection);

  // EventTarget, on the pump thread.
  void Push(TokenEvent&& event) override;
  void Flush() override;

  const std::shared_ptr<Connection>& connection() const override { return connection_; }

  // Reactions, on gRPC threads.
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  GenerateCall(ServedModel& model,
               StreamOptions options,
               StreamPump& pump,
               CallGate& gate,
               std::shared_ptr<Connection> connection);
  ~GenerateCall() override;

  // Writes the next event or finishes, if it is time; then the mutex is free, and after a finish
  // the call may be gone.
  void Advance() ABSL_UNLOCK_FUNCTION(mutex_);

  StreamPump& pump_;
  CallGate& gate_;
  EnginePort& engine_;
  // Shared with the listener's table: it forgets the connection when it hangs up.
  const std::shared_ptr<Connection> connection_;
  uint64_t request_id_ = 0;  // set before any event or reaction

  absl::Mutex mutex_;  // taken before the engine's
  EventBuffer buffer_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool sealed_ ABSL_GUARDED_BY(mutex_) = false;  // the pump has let go of the call
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;  // a write failed: nobody reads any more
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;
  OutgoingBytes message_;  // of the write in flight, untouched until it is done
};

}  // namespace ringserve
