#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "server/asked_server.h"
#include "server/commands.h"
#include "server/event_printer.h"
#include "server/generate_options.h"
#include "server/status.h"

namespace ringserve {
namespace {

using Json = nlohmann::ordered_json;

struct ScoreCommand {
  ServerOptionsOfCommand server;
  GenerateOptions prompt;
  std::vector<std::string> continuations;
  int32_t alternatives = 0;
  bool json = false;
};

absl::StatusOr<v1::ScoreRequest> BuildScoreRequest(const ScoreCommand& command) {
  if (command.continuations.empty()) {
    return absl::InvalidArgumentError("--continuation: none; at least one is needed");
  }
  if (command.alternatives != 0 && !command.json) {
    return absl::InvalidArgumentError("--alternatives: text has no place for them; add --json");
  }
  ASSIGN_OR_RETURN(v1::GenerateRequest prompt, BuildRequest(command.prompt));
  v1::ScoreRequest out;
  out.set_model(command.server.model_name);
  out.set_alternatives(command.alternatives);
  if (prompt.has_token_ids()) {
    out.mutable_token_ids()->Swap(prompt.mutable_token_ids());
  } else if (prompt.has_chat()) {
    out.mutable_chat()->Swap(prompt.mutable_chat());
  } else {
    out.set_text(prompt.text());
  }
  if (prompt.has_tokenize()) {
    *out.mutable_tokenize() = prompt.tokenize();
  }
  for (const std::string& text : command.continuations) {
    out.add_continuations()->set_text(text);
  }
  return out;
}

Json ContinuationJson(const v1::ScoredContinuation& continuation, const std::string& text) {
  Json tokens = Json::array();
  for (const v1::ScoredContinuationToken& token : continuation.tokens()) {
    Json one = ScoredTokenJson(token.token());
    one["is_greedy"] = token.is_greedy();
    tokens.push_back(std::move(one));
  }
  return {{"text", text},
          {"logprob", continuation.logprob()},
          {"is_greedy", continuation.is_greedy()},
          {"replay_digest", fmt::format("{:016x}", continuation.replay_digest())},
          {"tokens", std::move(tokens)}};
}

absl::Status RunScore(const ScoreCommand& command) {
  ASSIGN_OR_RETURN(const v1::ScoreRequest request, BuildScoreRequest(command));
  ASSIGN_OR_RETURN(AskedServer server, AskedServer::Reach(command.server));
  v1::ScoreResponse response;
  RETURN_IF_ERROR(FromGrpcStatus(server.stub().Score(&server.context(), request, &response)));
  for (int i = 0; i < response.continuations_size(); ++i) {
    const v1::ScoredContinuation& continuation = response.continuations(i);
    const std::string& text = command.continuations[static_cast<size_t>(i)];
    if (command.json) {
      fmt::print("{}\n",
                 ContinuationJson(continuation, text)
                     .dump(-1, ' ', false, Json::error_handler_t::replace));
    } else {
      fmt::print("{:.4f}\t{}\t{}\n",
                 continuation.logprob(),
                 continuation.is_greedy() ? "greedy" : "-",
                 text);
    }
  }
  return absl::OkStatus();
}

}  // namespace

void AddScoreCommand(CLI::App& program, int& exit_code) {
  CLI::App* command = program.add_subcommand(
      "score", "Tells how likely texts are behind a prompt: a line of logprob and text for each");
  auto state = std::make_shared<ScoreCommand>();
  AddServerOptions(*command, state->server);
  AddPromptOptions(*command, state->prompt);
  command
      ->add_option("--continuation",
                   state->continuations,
                   "Text that is scored, as it goes on from the prompt; may be repeated")
      ->type_name("TEXT")
      ->expected(1)
      ->take_all();
  command
      ->add_option("--alternatives",
                   state->alternatives,
                   "Tell the K likeliest tokens at each place; needs --json; [0, 20], default 0")
      ->type_name("K");
  command->add_flag("--json", state->json, "One JSON object per continuation, tokens included");
  command->callback([state, &exit_code] {
    const absl::Status status = RunScore(*state);
    exit_code = status.ok() ? kExitOk : Complain(status);
  });
}

}  // namespace ringserve
