// The one place that chooses a backend.
#pragma once

#include <memory>

#include "engine/backend/backend.h"
#include "engine/base/status.h"
#include "engine/engine_config.h"

namespace ringserve {

// kAuto takes the best device there is. INVALID_ARGUMENT naming the config key for a device that
// this build or machine does not have.
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(DevicePolicy device, int32_t num_threads);

}  // namespace ringserve
