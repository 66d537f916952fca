// Refusals of a server whose queue is full: how long a call waits for its RESOURCE_EXHAUSTED.
#pragma once

#include "engine/base/status.h"
#include "engine/engine_config.h"

namespace ringserve {

struct FloodBenchOptions {
  EngineConfig config;  // max_queue 256 and max_batch 16 are put in its place
};

// Serves the model in this process; a child process fills the batch and the queue, is refused a
// thousand times in a row while 16 streams run, and then sends a thousand calls at once to the idle
// server. INTERNAL if a call ends in another way than OK or RESOURCE_EXHAUSTED. Must be called
// while this process has one thread (it forks).
absl::Status BenchFlood(const FloodBenchOptions& options);

}  // namespace ringserve
