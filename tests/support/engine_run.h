// Engines on the embedded model, and what they answer to many requests at once.
#pragma once

#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/engine.h"
#include "tests/support/catch.h"
#include "tests/support/fake_sink.h"

namespace ringserve {

inline EngineConfig FairytaleConfig() {
  EngineConfig config;
  config.model = {.name = "fairytale-5m",
                  .path = std::string(RINGSERVE_SOURCE_DIR) + "/models/fairytale-5m"};
  config.rings = {.buffer_size = 1024, .block_size = 64};
  config.attention = {.tile_size = 64};
  config.scheduler = {.prefill_size = 512, .max_batch = 8, .max_queue = 1000};
  config.sessions = {.max_sessions = 1000, .share_prefixes = false, .prefix_groups = {}};
  config.device = DevicePolicy::kCpu;
  return config;
}

inline std::unique_ptr<Engine> StartEngine(const EngineConfig& config, EventSink& sink) {
  Engine::Options options;
  options.config = config;
  absl::StatusOr<std::unique_ptr<Engine>> engine = Engine::Create(std::move(options), sink);
  INFO(engine.status().ToString());
  REQUIRE(engine.ok());
  return *std::move(engine);
}

// What Hugging Face says of the embedded model (tests/fixtures/README.md).
inline nlohmann::json FairytaleReference() {
  std::ifstream file(std::string(RINGSERVE_SOURCE_DIR) +
                     "/tests/fixtures/fairytale-5m/reference.json");
  return nlohmann::json::parse(file);
}

}  // namespace ringserve
