#include "server/asked_server.h"

#include <utility>

#include <absl/time/clock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

namespace ringserve {

void AddServerOptions(CLI::App& command, ServerOptionsOfCommand& options) {
  AddModelSource(command, options.source, /*most=*/1);
  command.add_option("--target", options.target, "Server to ask: HOST:PORT or unix:PATH")
      ->type_name("ADDRESS");
  command.add_option(
      "--model-name", options.model_name, "Which of the server's models; default: its only one");
  command
      .add_option(
          "--timeout", options.timeout_seconds, "Seconds the request may take, as its deadline")
      ->check(CLI::PositiveNumber);
}

absl::StatusOr<AskedServer> AskedServer::Reach(const ServerOptionsOfCommand& options) {
  const size_t num_models = options.source.config_files.size() + options.source.model_dirs.size();
  if (num_models + (options.target.empty() ? 0 : 1) != 1) {
    return absl::InvalidArgumentError("give one of --config FILE, --model DIR, --target ADDRESS");
  }
  AskedServer out;
  std::shared_ptr<grpc::Channel> channel;
  if (options.target.empty()) {
    ASSIGN_OR_RETURN(const auto configs, LoadConfigs(options.source));
    ASSIGN_OR_RETURN(out.own_, OwnServer::Start(configs.front()));
    channel = out.own_->channel();
  } else {
    channel = grpc::CreateChannel(options.target, grpc::InsecureChannelCredentials());
  }
  out.stub_ = v1::Inference::NewStub(channel);
  out.context_ = std::make_unique<grpc::ClientContext>();
  if (options.timeout_seconds.has_value()) {
    out.context_->set_deadline(
        absl::ToChronoTime(absl::Now() + absl::Seconds(*options.timeout_seconds)));
  }
  return out;
}

}  // namespace ringserve
