#include "server/model_source.h"

#include <set>
#include <utility>

#include <fmt/format.h>

namespace ringserve {

void AddModelSource(CLI::App& command, ModelSource& source, int most) {
  command.add_option("--config", source.config_files, "JSON file that describes a model")
      ->type_name("FILE")
      ->expected(1, most);
  command
      .add_option(
          "--model", source.model_dirs, "Hugging Face folder, served with the default config")
      ->type_name("DIR")
      ->expected(1, most);
}

absl::StatusOr<std::vector<EngineConfig>> LoadConfigs(const ModelSource& source) {
  std::vector<EngineConfig> configs;
  for (const std::string& file : source.config_files) {
    ASSIGN_OR_RETURN(EngineConfig config, LoadEngineConfig(file));
    configs.push_back(std::move(config));
  }
  for (const std::string& dir : source.model_dirs) {
    ASSIGN_OR_RETURN(EngineConfig config, DefaultEngineConfig(dir));
    configs.push_back(std::move(config));
  }
  if (configs.empty()) {
    return absl::InvalidArgumentError("no model: give --config FILE or --model DIR");
  }
  std::set<std::string> names;
  for (const EngineConfig& config : configs) {
    if (!names.insert(config.model.name).second) {
      return absl::InvalidArgumentError(
          fmt::format("model.name: \"{}\" is given twice", config.model.name));
    }
  }
  return configs;
}

}  // namespace ringserve
