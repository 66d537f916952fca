// ringserve: one binary, a subcommand each for serving, generating and looking.
#include <CLI/CLI.hpp>
#include <csignal>
#include <exception>

#include <absl/synchronization/mutex.h>
#include <fmt/format.h>

#include "server/commands.h"

namespace ringserve {

namespace {

int Main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a reader that left shows itself as a failed write
  // The distributions build Abseil so that every lock looks for lock cycles, ours and gRPC's alike:
  // a twentieth of the front end's time; and Debian 13's finds cycles of locks that are long gone
  // (tests/support/lock_order.cc).
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  CLI::App program("Serves language models: tokens over gRPC, from ring buffers.", "ringserve");
  program.require_subcommand(1);
  program.set_version_flag("--version", RINGSERVE_VERSION);
  program.footer(
      "Exit codes: 0 done, 1 failed, 2 misused.\n"
      "`ringserve SUBCOMMAND --help` says more.");
  int exit_code = kExitOk;
  AddServeCommand(program, exit_code);
  AddGenerateCommand(program, exit_code);
  AddChatCommand(program, exit_code);
  AddScoreCommand(program, exit_code);
  AddEmbedCommand(program, exit_code);
  AddHealthCommand(program, exit_code);
  AddPlanCommand(program, exit_code);
  AddCheckCommand(program, exit_code);
  AddBenchCommand(program, exit_code);
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return program.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  return exit_code;
}

}  // namespace
}  // namespace ringserve

int main(int argc, char** argv) {
  try {
    return ringserve::Main(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "ringserve: {}\n", error.what());
    return ringserve::kExitFailure;
  }
}
