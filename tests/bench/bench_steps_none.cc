// Stands in for bench_steps.cc where there is no CUDA.
#include "tests/bench/bench_steps.h"

namespace ringserve {

absl::Status BenchSteps(const StepsBenchOptions& /*options*/) {
  return absl::InvalidArgumentError("--device cuda, but this build has no CUDA backend");
}

}  // namespace ringserve
