// Sessions as callers see them: what they ask for and what they are told. Plain data.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <absl/time/time.h>

#include "engine/base/status.h"
#include "engine/request.h"

namespace ringserve {

struct SessionOptions {
  // Tokens of context, forward and feedback ring together: a multiple of block_size from two blocks
  // to the model's buffer_size. 0: the model's.
  int64_t buffer_size = 0;
  // Idle for that long, the session is closed. Zero: the config's; else above 0.
  absl::Duration idle_timeout;
};

// Sums over the session's turns, interrupted ones included.
struct SessionCounters {
  int64_t turns = 0;  // that were committed
  int64_t interrupted_turns = 0;
  int64_t rollbacks = 0;      // asked for by the caller
  int64_t prompt_tokens = 0;  // as in Usage, all below
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t reprefilled_tokens = 0;
  int64_t evicted_tokens = 0;
  // Each time between two events is charged with the blocks that the session referred to at its
  // end, shared ones in full, where they lay then.
  HeldMemory held = {};
};

struct SessionInfo {
  std::string id;
  int64_t position = 0;        // tokens of its text; the next prompt begins here
  int64_t rollback_floor = 0;  // Rollback may return to [rollback_floor, position]
  int64_t buffer_size = 0;
  int64_t num_blocks = 0;  // KV blocks that it refers to, shared ones included
  bool is_busy = false;    // a turn is queued or running
  absl::Time created;
  absl::Time last_used;  // when the last turn ended, or it was created
  absl::Time expires;    // when it is closed if nothing happens; InfiniteFuture: never
  SessionCounters counters;
};

// How long a call may wait where it has to: for memory, or for a session that is on the disk.
struct CallOptions {
  absl::Time deadline = absl::InfiniteFuture();
  uint64_t call_id = 0;  // by which Engine::CancelCall knows it; 0: nothing cancels it
};

// What lies on the disk, where there is a disk tier.
struct DiskCounts {
  int64_t num_sessions = 0;
  int64_t bytes = 0;        // of their files
  int64_t num_spilled = 0;  // sessions since the start, as all below
  int64_t num_restored = 0;
  int64_t num_lost = 0;  // their files could not be read
  bool is_full = false;  // the last session that was to go found no room
};

using SessionReply = std::function<void(absl::StatusOr<SessionInfo>)>;
using SessionListReply = std::function<void(absl::StatusOr<std::vector<SessionInfo>>)>;

}  // namespace ringserve
