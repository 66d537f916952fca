// How fast attention alone is, beside what the machine can read and multiply in the same run.
#pragma once

#include <cstdint>

#include "kernels/thread_pool.h"
#include "kernels/types.h"

namespace ringserve {

struct AttentionBenchShape {
  int32_t num_heads = 32;
  int32_t num_kv_heads = 8;
  int32_t head_dim = 128;
  int32_t block_size = 64;
  DType dtype = DType::kBf16;
};

// Bytes per second that all threads of the pool read together from memory too large for the caches.
double MeasureReadBandwidth(ThreadPool& pool);

struct DecodeAttentionResult {
  double bytes_per_second = 0;  // of keys and values
  double read_bandwidth = 0;    // measured in between
};

// One query row of one sequence over num_keys keys, layer after layer, so that every layer comes
// from memory. Medians of `rounds` alternations with the read bandwidth.
DecodeAttentionResult MeasureDecodeAttention(const AttentionBenchShape& shape,
                                             int64_t num_keys,
                                             int32_t rounds,
                                             ThreadPool& pool);

// Causal attention of num_rows query rows that end a context of num_keys: arithmetic per second,
// four operations for each visible pair of query and key and each dimension of each head.
double MeasurePrefillAttention(const AttentionBenchShape& shape,
                               int64_t num_rows,
                               int64_t num_keys,
                               int32_t rounds,
                               ThreadPool& pool);

}  // namespace ringserve
