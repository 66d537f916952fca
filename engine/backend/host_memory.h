// How much memory this process can have at most.
#pragma once

#include <cstdint>
#include <string>

#include "engine/backend/backend.h"
#include "engine/base/status.h"

namespace ringserve {

// Bytes: the machine's memory, or less where a cgroup (version 1 or 2) of this process or one above
// it allows less; 0 where the system does not tell. `root` stands before /proc and /sys, for tests.
int64_t HostMemoryBytes(const std::string& root = "");

// RESOURCE_EXHAUSTED with the numbers if `wanted` is more than `memory_bytes`; 0: not known.
absl::Status CheckHostMemory(const BackendMemory& wanted, int64_t memory_bytes);

}  // namespace ringserve
