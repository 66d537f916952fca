// The services of package ringserve.v1. They hold no state: what
// their context names outlives the server.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <grpcpp/impl/service_type.h>

#include "server/connection.h"
#include "server/generate_call.h"
#include "server/load_watch.h"

namespace ringserve {

// What the front end knows of its connections.
struct ConnectionCounts {
  int64_t open = 0;
  int64_t max = 0;
  int64_t refused = 0;  // since start
};

struct ServiceContext {
  CallServices calls;
  LoadWatchers& watchers;
  // The connection of a peer as grpc::ServerContext::peer() names it, or null.
  std::function<std::shared_ptr<Connection>(const std::string& peer)> find_connection;
  std::function<ConnectionCounts()> count_connections;
};

// `context` must outlive the services.
std::unique_ptr<grpc::Service> MakeInferenceService(const ServiceContext& context);
std::unique_ptr<grpc::Service> MakeTokenizerService(const ServiceContext& context);
std::unique_ptr<grpc::Service> MakeModelsService(const ServiceContext& context);
std::unique_ptr<grpc::Service> MakeControlService(const ServiceContext& context);
std::unique_ptr<grpc::Service> MakeSessionsService(const ServiceContext& context);

}  // namespace ringserve
