// Runs a test on each of the instruction sets that Highway can pick on this machine.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/simd_targets.h"
// Behind it.
#include <hwy/highway.h>

namespace ringserve {

// As HWY_AVX2 and the like, those that kernels are compiled for.
inline std::vector<int64_t> CpuTargets() {
  hwy::SetSupportedTargetsForTest(0);
  std::vector<int64_t> targets;
  for (int64_t left = hwy::SupportedTargets() & HWY_TARGETS; left != 0; left &= left - 1) {
    targets.push_back(left & -left);
  }
  if (targets.empty()) {  // an Arm CPU without AES, which some versions take for a part of NEON
    targets.push_back(HWY_STATIC_TARGET);
  }
  return targets;
}

// Makes Highway pick a target as long as it lives; 0: the best.
class UseCpuTarget {
 public:
  explicit UseCpuTarget(int64_t target) { Pick(target); }

  ~UseCpuTarget() { Pick(0); }

  UseCpuTarget(const UseCpuTarget&) = delete;
  UseCpuTarget& operator=(const UseCpuTarget&) = delete;

 private:
  static void Pick(int64_t target) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

}  // namespace ringserve
