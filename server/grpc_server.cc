#include "server/grpc_server.h"

#include <limits>
#include <utility>

#include <fmt/format.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/support/channel_arguments.h>

#include "server/listener.h"
#include "server/services.h"

namespace ringserve {
namespace {

constexpr int kSecondMs = 1000;

// What a connection may do to us, and how soon a dead one is noticed.
void SetLimits(grpc::ServerBuilder& builder, const ServerOptions& options) {
  builder.SetMaxReceiveMessageSize(options.max_request_bytes);
  builder.SetMaxSendMessageSize(-1);  // ours, and bounded by event_buffer.cc
  // Clients that ping are answered, not sent away, if they leave 10 s between pings.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10 * kSecondMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // A peer that vanished without a word is noticed, and its calls cancelled, within 80 s.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60 * kSecondMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20 * kSecondMs);
  // A connection without a call gives its place back after half an hour.
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, 30 * 60 * kSecondMs);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 10 * kSecondMs);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                             static_cast<int>(std::min<int64_t>(options.max_calls, 4096)));
}

}  // namespace

struct GrpcServer::State {
  State(const ServerOptions& options, ModelSet& model_set, StreamPump& pump)
      : models(model_set),
        charged_pump(pump),
        gate{.max_calls = options.max_calls},
        registry(options.streams),
        context{.calls = {.models = model_set,
                          .pump = pump,
                          .registry = registry,
                          .accounts = accounts,
                          .gate = gate,
                          .identity_header = options.identity_header},
                .watchers = watchers,
                .find_connection = [this](const std::string& peer) { return listener->Find(peer); },
                .count_connections =
                    [this] {
                      return ConnectionCounts{.open = listener->open_connections(),
                                              .max = listener->max_connections(),
                                              .refused = listener->refused_connections()};
                    }} {
    charged_pump.OnCharge(
        [this](const std::string& owner, const HeldMemory& held) { accounts.Charge(owner, held); });
  }

  ~State() { charged_pump.OnCharge(nullptr); }

  State(const State&) = delete;
  State& operator=(const State&) = delete;

  ModelSet& models;
  StreamPump& charged_pump;
  CallGate gate;
  StreamRegistry registry;
  CallerAccounts accounts;
  LoadWatchers watchers;
  std::unique_ptr<Listener> listener;
  ServiceContext context;
  std::vector<std::unique_ptr<grpc::Service>> services;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor;
  std::unique_ptr<grpc::Server> server;
  bool stopped = false;
};

GrpcServer::GrpcServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

GrpcServer::~GrpcServer() {
  Stop(absl::Now());
}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const ServerOptions& options,
                                                              ModelSet& models,
                                                              StreamPump& pump) {
  auto state = std::make_unique<State>(options, models, pump);
  ASSIGN_OR_RETURN(
      state->listener,
      Listener::Create({.addresses = options.listen, .max_connections = options.max_connections}));
  state->services.push_back(MakeInferenceService(state->context));
  state->services.push_back(MakeTokenizerService(state->context));
  state->services.push_back(MakeModelsService(state->context));
  state->services.push_back(MakeControlService(state->context));
  state->services.push_back(MakeSessionsService(state->context));

  // By name, so that a static link keeps them.
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  SetLimits(builder, options);
  for (const auto& service : state->services) {
    builder.RegisterService(service.get());
  }
  using ConnectionType = grpc::ServerBuilder::experimental_type::ExternalConnectionType;
  state->acceptor = builder.experimental().AddExternalConnectionAcceptor(
      ConnectionType::FROM_FD, grpc::InsecureServerCredentials());
  state->server = builder.BuildAndStart();
  if (state->server == nullptr) {
    return absl::InternalError("gRPC could not start its server");
  }
  std::unique_ptr<GrpcServer> server(new GrpcServer(std::move(state)));
  server->SetServing(false);
  server->state_->listener->Run(
      [acceptor = server->state_->acceptor.get()](int listener_fd, int fd) {
        grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
        connection.listener_fd = listener_fd;
        connection.fd = fd;
        acceptor->HandleNewConnection(&connection);
      });
  return server;
}

const std::vector<ListeningSocket>& GrpcServer::sockets() const {
  return state_->listener->sockets();
}

std::shared_ptr<grpc::Channel> GrpcServer::InProcessChannel() {
  return state_->server->InProcessChannel(grpc::ChannelArguments());
}

void GrpcServer::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = state_->server->GetHealthCheckService();
  for (const char* service : {"",
                              "ringserve.v1.Inference",
                              "ringserve.v1.Tokenizer",
                              "ringserve.v1.Models",
                              "ringserve.v1.Control",
                              "ringserve.v1.Sessions"}) {
    health->SetServingStatus(service, serving);
  }
}

void GrpcServer::Drain(absl::Time deadline) {
  if (state_->stopped) {
    return;
  }
  SetServing(false);
  state_->models.BeginDrain();
  state_->watchers.EndAll();
  for (const auto& model : state_->models.models()) {
    model->engine->Drain(deadline);
  }
  // What the engines said last still has to reach the readers.
  Stop(std::max(deadline, absl::Now() + absl::Seconds(1)));
}

void GrpcServer::Stop(absl::Time deadline) {
  if (state_->stopped) {
    return;
  }
  state_->stopped = true;
  state_->listener->Stop();
  state_->server->Shutdown(absl::ToChronoTime(deadline));
  state_->server->Wait();
  state_->registry.Shutdown();
}

}  // namespace ringserve
