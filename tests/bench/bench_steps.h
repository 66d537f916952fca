// How fast the engine steps on a GPU: whole models with weights made up, many sequences at once,
// through scheduler, planner, kernels and sampler, as shares of the roof that the same run
// measures.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/base/status.h"

namespace ringserve {

struct StepsBenchOptions {
  std::string shape = "llama3-8b";

  struct Load {
    int32_t batch = 1;
    int32_t context = 1024;  // tokens of each prompt
  };

  std::vector<Load> loads = {{1, 1024}, {32, 1024}, {32, 8192}, {256, 1024}};
  int32_t decode_len = 128;
  int32_t prefill_len = 8192;  // of the prompt that is timed alone; 0: none
  // Also times blocks on their way to pinned memory and back, alone and beside decoding.
  bool spill = false;
};

// Prints tokens/s beside the roof: the larger of weight bytes over read bandwidth and operations
// over the matrix product's rate, plus bytes of keys and values over read bandwidth.
absl::Status BenchSteps(const StepsBenchOptions& options);

}  // namespace ringserve
