// The device as the kernels for sm_90a see it, for tests of these alone.
#pragma once

#include "kernels/matmul_hopper_cuda.h"
#include "tests/support/catch.h"
#include "tests/support/device_memory.h"

namespace ringserve {

inline const cuda::HopperDevice& Hopper() {
  static const cuda::HopperDevice device = [] {
    cuda::HopperDevice found;
    CheckCuda(cuda::FindHopperDevice(0, found), "FindHopperDevice");
    return found;
  }();
  return device;
}

// If not, says so.
inline bool IsHopper() {
  if (Hopper().encode_tensor_map == nullptr) {
    WARN("SKIPPED: the device is not sm_90");
    return false;
  }
  return true;
}

}  // namespace ringserve
