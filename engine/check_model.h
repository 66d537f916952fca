// What `ringserve check` says: everything that is wrong with a config and its model folder, found
// without loading the weights.
#pragma once

#include <string>
#include <vector>

#include "engine/engine_config.h"
#include "engine/model/model_config.h"

namespace ringserve {

struct CheckReport {
  EngineConfig config;
  ModelConfig model;
  bool has_chat_template = false;
  // One sentence each, naming file and key or tensor. Empty: nothing stands against serving it, and
  // config and model say what it is.
  std::vector<std::string> problems;
  // What serves, yet may surprise.
  std::vector<std::string> notes;
};

CheckReport CheckConfigFile(const std::string& path);
// A bare folder, as `--model DIR` serves it.
CheckReport CheckModelFolder(const std::string& model_dir);

// For people: the notes, then the problems and their number, or what the model is.
std::string FormatCheckReport(const CheckReport& report);

}  // namespace ringserve
