#include <csignal>
#include <iostream>
#include <memory>
#include <optional>
#include <pthread.h>
#include <string>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include "server/chat.h"
#include "server/commands.h"
#include "server/generate_options.h"
#include "server/model_source.h"
#include "server/own_server.h"

namespace ringserve {
namespace {

struct ChatCommand {
  ModelSource source;
  std::string target;
  std::string separator = "\n";
  std::string system;
  std::string variables;
  bool no_template = false;
  GenerateOptions options;
};

constexpr int kLeaveSignal = SIGUSR2;  // ours alone: ends the thread

sigset_t WatchedSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, kLeaveSignal);
  return signals;
}

// While it lives SIGINT ends the answer in progress, or the process if there is none. All threads
// must have WatchedSignals blocked.
class InterruptWatch {
 public:
  explicit InterruptWatch(Chat& chat) : thread_([&chat] { Run(chat); }) {}

  ~InterruptWatch() {
    pthread_kill(thread_.native_handle(), kLeaveSignal);
    thread_.join();
  }

  InterruptWatch(const InterruptWatch&) = delete;
  InterruptWatch& operator=(const InterruptWatch&) = delete;

 private:
  static void Run(Chat& chat) {
    const sigset_t signals = WatchedSignals();
    int signal = 0;
    for (;;) {
      sigwait(&signals, &signal);
      if (signal == kLeaveSignal) {
        return;
      }
      if (!chat.Interrupt()) {
        _exit(128 + SIGINT);
      }
    }
  }

  std::thread thread_;
};

absl::Status Converse(Chat& chat) {
  RETURN_IF_ERROR(chat.Open());
  const bool is_terminal = isatty(STDIN_FILENO) != 0;
  if (is_terminal) {
    fmt::print("/help tells the commands\n");
  }
  absl::Status last;
  std::string line;
  while (!chat.is_over()) {
    if (is_terminal) {
      fmt::print("> ");
    }
    std::fflush(stdout);
    if (!std::getline(std::cin, line)) {
      break;
    }
    absl::Status status = chat.TakeLine(line);
    if (!status.ok()) {
      fmt::print(stderr, "ringserve: {}\n", std::string(status.message()));
      last = std::move(status);
    }
  }
  absl::Status closed = chat.Close();
  return is_terminal || last.ok() ? closed : last;  // a script is told that a line failed
}

absl::Status RunChat(ChatCommand& command) {
  const size_t num_models = command.source.config_files.size() + command.source.model_dirs.size();
  if (num_models + (command.target.empty() ? 0 : 1) != 1) {
    return absl::InvalidArgumentError("give one of --config FILE, --model DIR, --target ADDRESS");
  }
  command.options.prompt = "";  // each turn has its own
  ASSIGN_OR_RETURN(v1::GenerateRequest request, BuildRequest(command.options));
  const sigset_t signals = WatchedSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // of this thread and all that come
  std::unique_ptr<OwnServer> own;
  std::shared_ptr<grpc::Channel> channel;
  if (command.target.empty()) {
    ASSIGN_OR_RETURN(const auto configs, LoadConfigs(command.source));
    ASSIGN_OR_RETURN(own, OwnServer::Start(configs.front()));
    channel = own->channel();
  } else {
    channel = grpc::CreateChannel(command.target, grpc::InsecureChannelCredentials());
  }
  Chat chat(channel,
            {.request = std::move(request),
             .separator = command.separator,
             .use_template = !command.no_template,
             .system = command.system,
             .variables = command.variables},
            stdout);
  const InterruptWatch watch(chat);
  return Converse(chat);
}

}  // namespace

void AddChatCommand(CLI::App& program, int& exit_code) {
  CLI::App* command = program.add_subcommand(
      "chat", "Holds a conversation on a session, line by line; /help tells its commands");
  auto state = std::make_shared<ChatCommand>();
  AddModelSource(*command, state->source, /*most=*/1);
  command->add_option("--target", state->target, "Server to ask: HOST:PORT or unix:PATH")
      ->type_name("ADDRESS");
  command->add_option("--model-name",
                      state->options.model_name,
                      "Which of the server's models; default: its only one");
  command->add_flag("--no-template",
                    state->no_template,
                    "Send the lines as they are, even if the model has a chat template");
  command->add_option("--system", state->system, "What the template is told first")
      ->type_name("TEXT");
  command
      ->add_option(
          "--variables", state->variables, "Of the template: {\"enable_thinking\": false}, say")
      ->type_name("JSON");
  command->add_option(
      "--separator",
      state->separator,
      "Between an answer and the next line, without a template; default: a new line");
  AddSamplingOptions(*command, state->options);
  AddStoppingOptions(*command, state->options);
  AddConstraintOptions(*command, state->options);
  command->callback([state, &exit_code] {
    const absl::Status status = RunChat(*state);
    exit_code = status.ok() ? kExitOk : Complain(status);
  });
}

}  // namespace ringserve
