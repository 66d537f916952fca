// The gated activation of Llama-like feed-forward layers (Shazeer 2020, SwiGLU).
#pragma once

#include <cstdint>

#include "kernels/types.h"

namespace ringserve {

class ThreadPool;

// out = silu(gate) * up, rounded to out_dtype; gate_up is [num_rows, 2 * ffn_dim], gate first.
struct SwiGluArgs {
  const float* gate_up = nullptr;
  void* out = nullptr;
  int32_t num_rows = 0;
  int32_t ffn_dim = 0;
  DType out_dtype = DType::kBf16;
};

void SwiGluCpu(const SwiGluArgs& args, ThreadPool& pool);
// `count` elements on this thread, with the same bits.
void SwiGluSpan(const float* gate, const float* up, int64_t count, DType out_dtype, void* out);

template <typename T>
void SwiGluRef(const SwiGluArgs& args, T* out);

}  // namespace ringserve
