// Many streams through the front door: tokens per second over gRPC, the gaps that a client sees
// between two tokens, and how much of the time is spent outside the kernels.
#pragma once

#include <cstdint>

#include "engine/base/status.h"
#include "engine/engine_config.h"

namespace ringserve {

struct StreamsBenchOptions {
  EngineConfig config;
  int32_t num_streams = 32;  // at once; [1, max_batch of the config]
  int32_t num_tokens = 512;  // of each stream
};

// Serves the model in this process on a loopback port and reads the streams from a child process,
// so that the client's work is not counted as the server's. Must be called while this process has
// one thread (it forks).
absl::Status BenchStreams(const StreamsBenchOptions& options);

}  // namespace ringserve
