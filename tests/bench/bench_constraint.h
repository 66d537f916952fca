// What constrained output costs: masks per token beside the steps that they are for.
#pragma once

#include <cstdint>

#include "engine/base/status.h"
#include "engine/engine_config.h"

namespace ringserve {

struct ConstraintBenchOptions {
  EngineConfig config;
  int32_t num_streams = 32;
  int32_t num_tokens = 150;
};

// Prints, for some constraints, the share of a step that finding and applying its masks takes: once
// right after they were compiled and once again. Then the same masks over a vocabulary of 128,000
// made-up words, without a model.
absl::Status BenchConstraint(const ConstraintBenchOptions& options);

}  // namespace ringserve
