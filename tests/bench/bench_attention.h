// How fast attention alone is, beside what the machine can read and multiply in the same minute.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/types.h"
#include "tests/bench/bench_kernels.h"

namespace ringserve {

struct AttentionBenchShape {
  int32_t num_heads = 32;
  int32_t num_kv_heads = 8;
  int32_t head_dim = 128;
  int32_t block_size = 64;
  int64_t num_keys = 8192;
  int32_t prefill_rows = 512;  // the last of the num_keys positions
  DType dtype = DType::kBf16;
};

// Decode (one row, GB/s of keys and values against reading, layer after layer so that all come from
// memory) and prefill (GFLOP/s of the visible pairs against multiplying in registers).
std::vector<BenchSeries> BenchAttention(const AttentionBenchShape& shape,
                                        int32_t num_rounds,
                                        ThreadPool& pool);

}  // namespace ringserve
