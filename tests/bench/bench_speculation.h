// What guessing ahead gains and costs: the same requests with and without, turn about on one
// engine, over text that repeats itself, text that does not, and a list that a JSON schema asks
// for.
#pragma once

#include <cstdint>

#include "engine/base/status.h"
#include "engine/engine_config.h"

namespace ringserve {

struct SpeculationBenchOptions {
  EngineConfig config;
  int32_t num_tokens = 200;  // of each stream
  int32_t rounds = 5;        // medians are over these
};

// Prints tokens per second at several numbers of streams. INVALID_ARGUMENT if the config does not
// speculate.
absl::Status BenchSpeculation(const SpeculationBenchOptions& options);

}  // namespace ringserve
