// How fast whole models run on the CPU: shapes with weights made up in memory, decode and prefill
// as shares of ceilings that the same run measures.
#pragma once

#include <cstdint>
#include <string>

#include "engine/base/status.h"

namespace ringserve {

struct ModelBenchOptions {
  std::string shape = "llama-1b";
  std::string dtype = "bf16";  // or "f32"
  int32_t num_threads = 0;     // 0: one per core
  int32_t prompt_len = 512;    // tokens of prefill; decode goes on from there
  int32_t decode_len = 64;
  int32_t rounds = 5;  // ceilings and model take turns; medians are reported
};

// Prints tokens/s, GB/s or GFLOP/s and percentages of the ceilings to stdout.
absl::Status BenchModel(const ModelBenchOptions& options);

}  // namespace ringserve
