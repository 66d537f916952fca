// The devices that a test can run on: always the CPU, and the GPU where this build and machine have
// one. RINGSERVE_TEST_DEVICE=cpu or cuda narrows them, and makes a missing GPU a failure.
#pragma once

#include <cstdlib>
#include <memory>
#include <string_view>
#include <vector>

#include "engine/backend/make_backend.h"
#include "tests/support/catch.h"

namespace ringserve {

inline std::unique_ptr<Backend> MakeTestBackend(DevicePolicy device) {
  auto backend = MakeBackend(device, 0);
  INFO(backend.status().ToString());
  REQUIRE(backend.ok());
  return *std::move(backend);
}

inline std::vector<DevicePolicy> TestDevices() {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nobody changes the environment
  const char* wanted = std::getenv("RINGSERVE_TEST_DEVICE");
  if (wanted != nullptr) {
    const bool is_cuda = std::string_view(wanted) == "cuda";
    return {is_cuda ? DevicePolicy::kCuda : DevicePolicy::kCpu};
  }
  static const bool has_gpu = MakeBackend(DevicePolicy::kCuda, 0).ok();
  return has_gpu ? std::vector{DevicePolicy::kCpu, DevicePolicy::kCuda}
                 : std::vector{DevicePolicy::kCpu};
}

}  // namespace ringserve
