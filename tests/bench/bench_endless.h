// One stream that never ends: what a token costs, in time and memory, at the beginning and a
// million tokens later.
#pragma once

#include <cstdint>
#include <string>

#include "engine/base/status.h"
#include "engine/engine_config.h"

namespace ringserve {

struct EndlessBenchOptions {
  EngineConfig config;  // overflow must be "slide"
  int32_t num_tokens = 1'000'000;
  int32_t window = 10'000;  // tokens over which time is taken; also where the first figures stand
};

// Prints a row per ten windows, then resident memory and time per token of the last window against
// the first full one.
absl::Status BenchEndless(const EndlessBenchOptions& options);

}  // namespace ringserve
