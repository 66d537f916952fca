#include <chrono>
#include <cstdio>
#include <memory>
#include <string>

#include <fmt/format.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include "grpc/health/v1/health.grpc.pb.h"
#include "server/commands.h"

namespace ringserve {
namespace {

namespace health = grpc::health::v1;

struct HealthCommand {
  std::string target = "127.0.0.1:50051";
  std::string service;
  double wait_seconds = 0;
};

constexpr double kAnswerSeconds = 5;  // what one question may take

// Reads statuses until one is SERVING, or until there are no more.
grpc::Status WaitUntilServing(health::Health::Stub& stub,
                              grpc::ClientContext& context,
                              const health::HealthCheckRequest& request,
                              health::HealthCheckResponse& response) {
  context.set_wait_for_ready(true);
  const auto reader = stub.Watch(&context, request);
  while (reader->Read(&response)) {
    if (response.status() == health::HealthCheckResponse::SERVING) {
      context.TryCancel();
      reader->Finish().error_code();  // CANCELLED, by us
      return grpc::Status::OK;
    }
  }
  return reader->Finish();
}

int Health(const HealthCommand& command) {
  const auto channel = grpc::CreateChannel(command.target, grpc::InsecureChannelCredentials());
  const auto stub = health::Health::NewStub(channel);
  const bool wait = command.wait_seconds > 0;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::milliseconds(static_cast<int64_t>(
                           (wait ? command.wait_seconds : kAnswerSeconds) * 1000)));
  health::HealthCheckRequest request;
  request.set_service(command.service);
  health::HealthCheckResponse response;
  const grpc::Status status = wait ? WaitUntilServing(*stub, context, request, response)
                                   : stub->Check(&context, request, &response);
  const bool serving = response.status() == health::HealthCheckResponse::SERVING;
  if (!status.ok()) {
    fmt::print(stderr, "ringserve: {}: {}\n", command.target, status.error_message());
  } else {
    fmt::print("{}\n", health::HealthCheckResponse::ServingStatus_Name(response.status()));
  }
  return status.ok() && serving ? kExitOk : kExitFailure;
}

}  // namespace

void AddHealthCommand(CLI::App& program, int& exit_code) {
  CLI::App* command =
      program.add_subcommand("health", "Asks a server whether it serves; 0 if so, else 1");
  auto options = std::make_shared<HealthCommand>();
  command->add_option("--target", options->target, "Server to ask: HOST:PORT or unix:PATH")
      ->type_name("ADDRESS")
      ->capture_default_str();
  command->add_option(
      "--service", options->service, "Full name of a service; default: the server as a whole");
  command
      ->add_option("--wait",
                   options->wait_seconds,
                   "Seconds to wait until it serves; 0, the default, asks once")
      ->check(CLI::Range(0.0, 86400.0));
  command->callback([options, &exit_code] { exit_code = Health(*options); });
}

}  // namespace ringserve
