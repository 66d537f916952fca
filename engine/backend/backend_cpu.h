// The CPU backend: Highway kernels on a thread pool. Calls run at once, so Synchronize has nothing
// to wait for. Device and pinned memory are both ordinary memory, in huge pages where the system
// gives them.
#pragma once

#include <memory>

#include "engine/backend/backend.h"
#include "engine/base/status.h"

namespace ringserve {

// num_threads 0: one per core that this process may run on. INVALID_ARGUMENT if it is negative or
// over 1024.
absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(int32_t num_threads);

}  // namespace ringserve
