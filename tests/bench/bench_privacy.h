// Whether the time to a first token tells that somebody else has sent the same prompt before.
#pragma once

#include <cstdint>

#include "engine/base/status.h"
#include "engine/engine_config.h"

namespace ringserve {

struct PrivacyBenchOptions {
  EngineConfig config;  // prefixes are shared, whatever it says
  int32_t num_probes = 200;
  int32_t prompt_len = 512;  // tokens
};

// Asks for prompts that another caller has just sent, in turn with prompts that nobody has; prints
// the ratio of the two times, and what one's own repeated prompt takes.
absl::Status BenchPrivacy(const PrivacyBenchOptions& options);

}  // namespace ringserve
