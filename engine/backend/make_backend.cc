#include "engine/backend/make_backend.h"

#include "engine/backend/backend_cpu.h"

#ifdef RINGSERVE_CUDA
#include <fmt/format.h>

#include "engine/backend/backend_cuda.h"
#endif

namespace ringserve {

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(DevicePolicy device, int32_t num_threads) {
#ifdef RINGSERVE_CUDA
  if (device != DevicePolicy::kCpu) {
    absl::StatusOr<std::unique_ptr<Backend>> cuda = MakeCudaBackend(num_threads);
    if (cuda.ok()) {
      return cuda;
    }
    if (device == DevicePolicy::kCuda) {
      return absl::FailedPreconditionError(
          fmt::format("device: \"cuda\": {}", std::string(cuda.status().message())));
    }
  }
#else
  if (device == DevicePolicy::kCuda) {
    return absl::InvalidArgumentError("device: \"cuda\", but this build has no CUDA backend");
  }
#endif
  return MakeCpuBackend(num_threads);
}

}  // namespace ringserve
