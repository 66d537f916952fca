// The one place that chooses a backend.
#pragma once

#include <memory>

#include "engine/backend/backend.h"
#include "engine/base/status.h"
#include "engine/engine_config.h"

namespace ringserve {

// kAuto takes a GPU that this build has kernels for, else the CPU. INVALID_ARGUMENT for a device
// that this build does not have, FAILED_PRECONDITION for one that this machine does not have,
// naming the config key.
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(DevicePolicy device, int32_t num_threads);

}  // namespace ringserve
