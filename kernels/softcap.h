// Soft-capping of logits: x becomes softcap * tanh(x / softcap).
#pragma once

#include <cstdint>

namespace ringserve {

class ThreadPool;

struct SoftcapArgs {
  float* x = nullptr;  // [num_rows, size], in place
  int32_t num_rows = 0;
  int32_t size = 0;
  float softcap = 0;  // positive
};

void SoftcapCpu(const SoftcapArgs& args, ThreadPool& pool);

}  // namespace ringserve
