#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "server/asked_server.h"
#include "server/commands.h"
#include "server/status.h"

namespace ringserve {
namespace {

struct EmbedCommand {
  ServerOptionsOfCommand server;
  std::vector<std::string> inputs;
  std::string pooling = "last";
  bool normalize = false;
};

absl::StatusOr<v1::EmbedRequest> BuildEmbedRequest(const EmbedCommand& command) {
  v1::EmbedRequest out;
  out.set_model(command.server.model_name);
  for (const std::string& text : command.inputs) {
    out.add_inputs()->set_text(text);
  }
  out.set_pooling(command.pooling == "mean" ? v1::POOLING_MEAN : v1::POOLING_LAST_TOKEN);
  out.set_normalize(command.normalize);
  return out;
}

absl::Status RunEmbed(const EmbedCommand& command) {
  ASSIGN_OR_RETURN(const v1::EmbedRequest request, BuildEmbedRequest(command));
  ASSIGN_OR_RETURN(AskedServer server, AskedServer::Reach(command.server));
  v1::EmbedResponse response;
  RETURN_IF_ERROR(FromGrpcStatus(server.stub().Embed(&server.context(), request, &response)));
  for (const v1::Embedding& embedding : response.embeddings()) {
    fmt::print("{}\n", nlohmann::json(embedding.values()).dump());
  }
  return absl::OkStatus();
}

}  // namespace

void AddEmbedCommand(CLI::App& program, int& exit_code) {
  CLI::App* command = program.add_subcommand(
      "embed", "Turns texts into vectors: one JSON array for each, on its line");
  auto state = std::make_shared<EmbedCommand>();
  AddServerOptions(*command, state->server);
  command->add_option("--input", state->inputs, "Text; may be repeated")
      ->type_name("TEXT")
      ->required()
      ->expected(1)
      ->take_all();
  command
      ->add_option("--pooling",
                   state->pooling,
                   "Hidden state of the last token, or the mean of all; default last")
      ->check(CLI::IsMember({"last", "mean"}));
  command->add_flag("--normalize", state->normalize, "Make each vector's Euclidean norm 1");
  command->callback([state, &exit_code] {
    const absl::Status status = RunEmbed(*state);
    exit_code = status.ok() ? kExitOk : Complain(status);
  });
}

}  // namespace ringserve
