// How a matrix product is cut into tiles for the sm_90a kernel: pure arithmetic on shapes. The
// choice decides the speed, never the bits.
#pragma once

#include <cstdint>

#include "kernels/matmul_params_cuda.h"

namespace ringserve::cuda::matmul {

struct HopperShape {
  int32_t num_rows = 0;     // of x
  int32_t num_columns = 0;  // rows of the weight
  int32_t cols = 0;         // K
  bool gated = false;       // num_columns is a multiple of 16
};

// 0: as the plan sees fit. For measurements.
struct HopperTuning {
  int32_t cluster = 0;
  int32_t tile_columns = 0;
  int32_t shared_bytes = 0;
  int32_t groups = 0;       // not 0: by LaunchHopper
  int32_t ahead_bytes = 0;  // 1: none
};

struct HopperPlan {
  HopperParams params = {};  // all but `out`
  bool by_rows = false;      // by LaunchRows; then columns and groups mean nothing
  int32_t columns = 0;       // kColumns of LaunchHopper
  int32_t groups = 0;        // kGroups: 1 or 2
  int32_t grid = 0;
  int32_t shared_bytes = 0;
};

HopperPlan PlanHopper(const HopperShape& shape, int32_t num_sms, const HopperTuning& tuning = {});

}  // namespace ringserve::cuda::matmul
