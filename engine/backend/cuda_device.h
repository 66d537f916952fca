// The CUDA device that a backend runs on: found, or refused with the reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "engine/base/status.h"
#include "kernels/attention_cuda.h"

namespace ringserve {

struct CudaDevice {
  int32_t index = 0;
  std::string name;  // "NVIDIA H200"
  int32_t major = 0;
  int32_t minor = 0;
  int32_t num_multiprocessors = 0;
  cuda::AttentionDevice attention;

  // Whether the kernels for sm_90a are to run.
  bool is_hopper() const { return attention.hopper; }
};

// The first device that CUDA shows (CUDA_VISIBLE_DEVICES chooses), made current for the calling
// thread. FAILED_PRECONDITION: no device, a driver too old for this build, or a compute capability
// below 8.0.
absl::StatusOr<CudaDevice> FindCudaDevice();

// What FindCudaDevice says of a machine, as a function of what the driver answered. Versions as
// CUDA tells them: 1000 * major + 10 * minor; 0: none.
absl::Status CheckCudaDevice(
    int driver_version, int needed_version, int num_devices, int major, int minor);

// RESOURCE_EXHAUSTED if `wanted` bytes are more than `free` of the device's `total`.
absl::Status CheckDeviceMemory(size_t wanted, size_t free, size_t total);

}  // namespace ringserve
