// Token embedding: rows of a table.
#pragma once

#include <cstdint>

#include "kernels/types.h"

namespace ringserve {

class ThreadPool;

// out[i, :] = table[token_ids[i], :] * scale, as float32; or out[i, :] += that.
struct EmbedArgs {
  const int32_t* token_ids = nullptr;
  const std::byte* table = nullptr;  // [vocab_size, hidden_dim] of table_dtype, row-major
  float* out = nullptr;
  int32_t num_rows = 0;
  int32_t hidden_dim = 0;
  int32_t vocab_size = 0;
  DType table_dtype = DType::kBf16;  // any
  float scale = 1.0F;
  bool accumulate = false;
};

// Requires 0 <= token id < vocab_size.
void EmbedCpu(const EmbedArgs& args);

}  // namespace ringserve
