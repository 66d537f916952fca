// The program's subcommands, one file each. Exit codes of all: 0 done, 1 failed, 2 misused.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "engine/base/status.h"

namespace ringserve {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;

// Each adds a subcommand whose callback runs it and leaves its exit code in `exit_code`, which must
// outlive the parse.
void AddServeCommand(CLI::App& program, int& exit_code);
void AddGenerateCommand(CLI::App& program, int& exit_code);
void AddChatCommand(CLI::App& program, int& exit_code);
void AddScoreCommand(CLI::App& program, int& exit_code);
void AddEmbedCommand(CLI::App& program, int& exit_code);
void AddHealthCommand(CLI::App& program, int& exit_code);
void AddPlanCommand(CLI::App& program, int& exit_code);
void AddCheckCommand(CLI::App& program, int& exit_code);
void AddBenchCommand(CLI::App& program, int& exit_code);  // in tests/bench

// Says `status` on stderr. kExitUsage for INVALID_ARGUMENT, else kExitFailure.
int Complain(const absl::Status& status);

}  // namespace ringserve
