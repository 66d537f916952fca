// The gRPC server: our accept loop, the services of ringserve.v1, health and reflection.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <absl/time/time.h>
#include <grpcpp/channel.h>

#include "engine/base/status.h"
#include "server/address.h"
#include "server/served_model.h"
#include "server/stream_pump.h"
#include "server/stream_registry.h"

namespace ringserve {

struct ServerOptions {
  std::vector<std::string> listen = {"127.0.0.1:50051"};  // none: InProcessChannel alone
  int64_t max_connections = 1024;
  int64_t max_calls = 4096;             // Generate calls open at once
  int32_t max_request_bytes = 4 << 20;  // of one request message
  // The metadata key that says who calls, in lower case, which a proxy in front sets and clients
  // cannot; empty: all callers are one, the anonymous.
  std::string identity_header{};
  StreamRegistry::Options streams{};
};

class GrpcServer {
 public:
  // Binds, and answers from now on: NOT_SERVING and UNAVAILABLE until SetServing(true). `models`
  // and `pump` must outlive it.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const ServerOptions& options,
                                                           ModelSet& models,
                                                           StreamPump& pump);
  // Stop(now).
  ~GrpcServer();
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  const std::vector<ListeningSocket>& sockets() const;
  // To this server, without a socket.
  std::shared_ptr<grpc::Channel> InProcessChannel();

  // What health says of the whole server and of each service.
  void SetServing(bool serving);

  // Health says NOT_SERVING, new requests are refused, live ones go on until they end or `deadline`
  // passes; then the server is stopped. Engines must still run. Idempotent.
  void Drain(absl::Time deadline);
  // Calls that are still open at `deadline` are cancelled. Idempotent.
  void Stop(absl::Time deadline);

 private:
  struct State;
  explicit GrpcServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace ringserve
