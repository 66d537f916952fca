// Many at once through the whole server: idle sessions that hold text, and concurrent streams
// beside them.
#pragma once

#include <cstdint>

#include "engine/base/status.h"
#include "engine/engine_config.h"

namespace ringserve {

struct LoadBenchOptions {
  EngineConfig config;  // max_batch, pools and session limits are replaced by what the load needs
  int32_t num_streams = 1000;  // at once
  int32_t num_sessions = 10'000;
  int32_t num_tokens = 64;  // of each stream
};

// Serves the model in this process; a child process makes the sessions, each with a turn, reads the
// streams and closes the sessions, twice. Reports errors, gaps between tokens, and what memory and
// blocks came back. Must be called while this process has one thread (it forks).
absl::Status BenchLoad(const LoadBenchOptions& options);

}  // namespace ringserve
