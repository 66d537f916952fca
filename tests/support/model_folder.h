// The embedded model's folder with files of a test's own in it.
#pragma once

#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>

#include "engine/engine_config.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_server.h"

namespace ringserve {

class ModelFolder {
 public:
  // All that a model needs, but for `without`.
  explicit ModelFolder(std::string_view without = "") {
    for (const std::string_view name :
         {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}) {
      if (name != without) {
        std::filesystem::create_symlink(SmallFairytaleConfig().model.path + "/" + std::string(name),
                                        dir_ / name);
      }
    }
  }

  void Write(std::string_view name, std::string_view contents) const { dir_.Write(name, contents); }

  EngineConfig config() const {
    EngineConfig config = SmallFairytaleConfig();
    config.model.path = dir_.path();
    return config;
  }

 private:
  TempDir dir_;
};

}  // namespace ringserve
