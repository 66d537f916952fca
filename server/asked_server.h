// Whom a command asks that makes one unary call: a model of its own, or a server.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>

#include <grpcpp/client_context.h>

#include "engine/base/status.h"
#include "ringserve/v1/inference.grpc.pb.h"
#include "server/model_source.h"
#include "server/own_server.h"

namespace ringserve {

struct ServerOptionsOfCommand {
  ModelSource source;
  std::string target;
  std::string model_name;
  std::optional<double> timeout_seconds;
};

// `options` must outlive the parse.
void AddServerOptions(CLI::App& command, ServerOptionsOfCommand& options);

class AskedServer {
 public:
  static absl::StatusOr<AskedServer> Reach(const ServerOptionsOfCommand& options);

  v1::Inference::Stub& stub() { return *stub_; }

  grpc::ClientContext& context() { return *context_; }

 private:
  std::unique_ptr<OwnServer> own_;  // null: it is another process
  std::unique_ptr<v1::Inference::Stub> stub_;
  std::unique_ptr<grpc::ClientContext> context_;
};

}  // namespace ringserve
