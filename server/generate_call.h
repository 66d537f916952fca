// One Generate or Attach call: a gRPC write reactor with one write in flight, which reads a
// GenerateStream.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "engine/base/status.h"
#include "server/call_gate.h"
#include "server/caller_accounts.h"
#include "server/connection.h"
#include "server/served_model.h"
#include "server/stream_pump.h"
#include "server/stream_registry.h"
#include "server/wire.h"

namespace ringserve {

class GenerateStream;

// What calls need; outlives the server.
struct CallServices {
  const ModelSet& models;
  StreamPump& pump;
  StreamRegistry& registry;
  CallerAccounts& accounts;
  CallGate& gate;
  const std::string identity_header;  // "": all callers are anonymous
};

// Owned by itself from its start to OnDone.
class GenerateCall final : public grpc::ServerWriteReactor<OutgoingBytes> {
 public:
  using Reactor = grpc::ServerWriteReactor<OutgoingBytes>;

  // Checks, converts and submits; a request that cannot run ends here with its status. `connection`
  // may be null.
  static Reactor* Generate(grpc::CallbackServerContext& context,
                           const grpc::ByteBuffer& request,
                           const CallServices& services,
                           std::shared_ptr<Connection> connection);
  static Reactor* Attach(grpc::CallbackServerContext& context,
                         const grpc::ByteBuffer& request,
                         const CallServices& services);

  GenerateCall(const GenerateCall&) = delete;
  GenerateCall& operator=(const GenerateCall&) = delete;

  // What the stream does, with its mutex free. Each call that began gets one End, or one Write that
  // is the last; it may be gone then.
  void Write(const grpc::Slice& bytes, bool last);
  void End(const absl::Status& status);

  // The stream's, under its mutex.
  bool writing = false;
  int64_t num_tokens = 0;   // of the completion, up to the end of the event in flight
  absl::Status end_status;  // for a call that is not read from any more, once it is done writing

  // Reactions, on gRPC threads.
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  GenerateCall(std::shared_ptr<GenerateStream> stream, CallGate& gate);
  ~GenerateCall() override;

  const std::shared_ptr<GenerateStream> stream_;
  CallGate& gate_;
  OutgoingBytes message_;  // of the write in flight, untouched until it is done
};

}  // namespace ringserve
