#include <memory>
#include <string>

#include <fmt/format.h>

#include "engine/check_model.h"
#include "server/commands.h"
#include "server/model_source.h"

namespace ringserve {
namespace {

int PrintReports(const ModelSource& source) {
  if (source.config_files.empty() && source.model_dirs.empty()) {
    return Complain(absl::InvalidArgumentError("no model: give --config FILE or --model DIR"));
  }
  int exit_code = kExitOk;
  const auto print = [&exit_code](const std::string& path, const CheckReport& report) {
    fmt::print("{}\n{}", path, FormatCheckReport(report));
    if (!report.problems.empty()) {
      exit_code = kExitFailure;
    }
  };
  for (const std::string& file : source.config_files) {
    print(file, CheckConfigFile(file));
  }
  for (const std::string& dir : source.model_dirs) {
    print(dir, CheckModelFolder(dir));
  }
  return exit_code;
}

}  // namespace

void AddCheckCommand(CLI::App& program, int& exit_code) {
  CLI::App* command = program.add_subcommand(
      "check", "Says all that is wrong with configs and their model folders, loading nothing");
  auto source = std::make_shared<ModelSource>();
  AddModelSource(*command, *source, /*most=*/64);
  command->callback([source, &exit_code] { exit_code = PrintReports(*source); });
}

}  // namespace ringserve
