#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <unistd.h>
#include <vector>

#include <absl/time/clock.h>
#include <fmt/format.h>

#include "server/commands.h"
#include "server/event_printer.h"
#include "server/generate_options.h"
#include "server/generation.h"
#include "server/model_source.h"

namespace ringserve {
namespace {

struct GenerateCommand {
  ModelSource source;
  std::string target;
  GenerateOptions options;
  std::optional<double> timeout_seconds;
  bool json = false;
  bool stats = false;
};

// A line that counts up, for whoever looks.
void TellProgress(double fraction, void* /*context*/) {
  if (isatty(STDERR_FILENO) == 0) {
    return;
  }
  if (fraction < 1) {
    fmt::print(stderr, "\rloading {:3.0f} %", fraction * 100);
  } else {
    fmt::print(stderr, "\r{:13}\r", "");
  }
}

double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + static_cast<double>(duration.nanos()) * 1e-9;
}

void PrintStats(const v1::Finished& finished) {
  const v1::Usage& usage = finished.usage();
  const double prefill = Seconds(finished.timings().prefill());
  const double decode = Seconds(finished.timings().decode());
  // The first token is prefill's.
  const auto decoded = static_cast<double>(usage.completion_tokens() - 1);
  fmt::print(stderr,
             "prompt {} tokens in {:.3f} s; completion {} tokens, decode {:.3f} s ({:.1f} per "
             "second)\n",
             usage.prompt_tokens(),
             prefill,
             usage.completion_tokens(),
             decode,
             decode > 0 ? decoded / decode : 0);
}

absl::Status Check(const GenerateCommand& command) {
  const size_t num_models = command.source.config_files.size() + command.source.model_dirs.size();
  if (num_models + (command.target.empty() ? 0 : 1) != 1) {
    return absl::InvalidArgumentError("give one of --config FILE, --model DIR, --target ADDRESS");
  }
  if (command.options.logprobs.has_value() && !command.json) {
    return absl::InvalidArgumentError("--logprobs: text has no place for them; add --json");
  }
  if (command.options.num_completions.value_or(1) > 1 && !command.json) {
    return absl::InvalidArgumentError("--completions: text cannot tell them apart; add --json");
  }
  return absl::OkStatus();
}

absl::Status Generate(const GenerateCommand& command) {
  RETURN_IF_ERROR(Check(command));
  std::optional<EngineConfig> config;
  if (command.target.empty()) {
    ASSIGN_OR_RETURN(auto configs, LoadConfigs(command.source));
    config = configs.front();
  }
  ASSIGN_OR_RETURN(const v1::GenerateRequest request, BuildRequest(command.options));
  const absl::Time deadline = command.timeout_seconds.has_value()
                                  ? absl::Now() + absl::Seconds(*command.timeout_seconds)
                                  : absl::InfiniteFuture();
  EventPrinter printer(command.json ? EventPrinter::Style::kJson : EventPrinter::Style::kText,
                       stdout);
  std::vector<v1::Finished> finished;
  bool has_text = command.json;
  const OnEvent on_event = [&](const v1::GenerateEvent& event) {
    if (event.has_finished()) {
      finished.push_back(event.finished());
    }
    has_text = has_text || !event.delta().text().empty();
    return printer.Print(event);
  };
  absl::Status status = config.has_value()
                            ? GenerateHere(*config, request, deadline, &TellProgress, on_event)
                            : GenerateThere(command.target, request, deadline, on_event);
  printer.Finish(isatty(STDOUT_FILENO) != 0);
  if (status.ok() && !has_text && finished.front().usage().completion_tokens() > 1) {
    fmt::print(stderr,
               "the answer's {} tokens have no text; --json tells them\n",
               finished.front().usage().completion_tokens());
  }
  if (status.ok() && command.stats) {
    for (const v1::Finished& one : finished) {
      PrintStats(one);
    }
  }
  return status;
}

}  // namespace

void AddGenerateCommand(CLI::App& program, int& exit_code) {
  CLI::App* command = program.add_subcommand(
      "generate", "Continues a text, with a model of its own or that of a server");
  auto state = std::make_shared<GenerateCommand>();
  AddModelSource(*command, state->source, /*most=*/1);
  command->add_option("--target", state->target, "Server to ask: HOST:PORT or unix:PATH")
      ->type_name("ADDRESS");
  command->add_option("--model-name",
                      state->options.model_name,
                      "Which of the server's models; default: its only one");
  command
      ->add_option(
          "--timeout", state->timeout_seconds, "Seconds the request may take, as its deadline")
      ->check(CLI::PositiveNumber);
  command->add_flag("--json", state->json, "One JSON object per event, each on its line");
  command->add_flag("--stats", state->stats, "Token counts and times on stderr at the end");
  AddPromptOptions(*command, state->options);
  AddSamplingOptions(*command, state->options);
  AddStoppingOptions(*command, state->options);
  AddConstraintOptions(*command, state->options);
  AddOutputOptions(*command, state->options);
  command->callback([state, &exit_code] {
    const absl::Status status = Generate(*state);
    exit_code = status.ok() ? kExitOk : Complain(status);
  });
}

}  // namespace ringserve
