// Where a command's models come from: --config FILE or --model DIR.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "engine/base/status.h"
#include "engine/engine_config.h"

namespace ringserve {

struct ModelSource {
  std::vector<std::string> config_files;
  std::vector<std::string> model_dirs;
};

// Adds both options; `most` models at most. `source` must outlive the parse.
void AddModelSource(CLI::App& command, ModelSource& source, int most);

// One config per model, in the order given, configs first. INVALID_ARGUMENT if there is none, or
// two of one name.
absl::StatusOr<std::vector<EngineConfig>> LoadConfigs(const ModelSource& source);

}  // namespace ringserve
