#include <memory>
#include <string>

#include <fmt/format.h>

#include "engine/engine.h"
#include "engine/memory_plan.h"
#include "server/commands.h"
#include "server/model_source.h"

namespace ringserve {
namespace {

absl::Status PrintPlans(const ModelSource& source) {
  ASSIGN_OR_RETURN(const auto configs, LoadConfigs(source));
  for (const EngineConfig& config : configs) {
    ASSIGN_OR_RETURN(const MemoryPlan plan, Engine::Plan(config));
    fmt::print("{}\n{}\n", config.model.name, FormatMemoryPlan(plan));
  }
  return absl::OkStatus();
}

}  // namespace

void AddPlanCommand(CLI::App& program, int& exit_code) {
  CLI::App* command =
      program.add_subcommand("plan", "Prints the memory that models will take, loading nothing");
  auto source = std::make_shared<ModelSource>();
  AddModelSource(*command, *source, /*most=*/64);
  command->callback([source, &exit_code] {
    const absl::Status status = PrintPlans(*source);
    exit_code = status.ok() ? kExitOk : Complain(status);
  });
}

}  // namespace ringserve
