// A call on sessions while it waits in the engine: until its session is back from the disk, or for
// memory that is still to come free.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "engine/base/status.h"
#include "engine/cache/block_pool.h"
#include "engine/session_info.h"

namespace ringserve {

struct WaitingCall {
  std::string owner;
  std::string session_id = {};  // whose blocks it needs; empty: nobody's
  CallOptions options = {};
  bool is_import = false;  // and holds a piece of a snapshot
  int64_t arrival = 0;     // of the last request that came before it
  // Makes the call, and answers it if there was memory for it: then none. Else the blocks that
  // it lacks, and nothing has changed.
  std::function<BlockCounts()> attempt = {};
  std::function<void(const absl::Status&)> fail = {};
};

}  // namespace ringserve
