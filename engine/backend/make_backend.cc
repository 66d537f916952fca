#include "engine/backend/make_backend.h"

#include "engine/backend/backend_cpu.h"

namespace ringserve {

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(DevicePolicy device, int32_t num_threads) {
  if (device == DevicePolicy::kCuda) {
    return absl::InvalidArgumentError("device: \"cuda\", but this build has no CUDA backend");
  }
  return MakeCpuBackend(num_threads);
}

}  // namespace ringserve
