// A server that only this process can reach: commands that need no other ask it as they would ask
// one over the network.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include <grpcpp/channel.h>

#include "engine/base/status.h"
#include "engine/engine_config.h"
#include "server/grpc_server.h"
#include "server/served_model.h"
#include "server/stream_pump.h"

namespace ringserve {

class OwnServer {
 public:
  static absl::StatusOr<std::unique_ptr<OwnServer>> Start(const EngineConfig& config) {
    auto out = std::make_unique<OwnServer>();
    ASSIGN_OR_RETURN(out->server_, GrpcServer::Start({.listen = {}}, out->models_, out->pump_));
    std::vector<std::unique_ptr<ServedModel>> models(1);
    ASSIGN_OR_RETURN(models.front(), LoadServedModel(config, out->pump_, nullptr, nullptr));
    out->models_.Publish(std::move(models));
    return out;
  }

  std::shared_ptr<grpc::Channel> channel() { return server_->InProcessChannel(); }

 private:
  StreamPump pump_;
  ModelSet models_;
  std::unique_ptr<GrpcServer> server_;
};

}  // namespace ringserve
