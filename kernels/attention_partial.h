// Partial results of rows over some of their keys, and how they are folded and written out. A
// record is [sum, max, out[head_dim]]: sum and out are relative to 2^max. Internal to the attention
// family.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/attention.h"

namespace ringserve {

inline constexpr int32_t kRecordHead = 2;  // floats before out
inline constexpr float kNoKeys = -std::numeric_limits<float>::infinity();

// Folds `from` into `into`. Rows that saw nothing do not count, and folding into one copies: a
// record folded alone stays what it was.
inline void FoldRecord(const float* from, int32_t head_dim, float* into) {
  if (from[0] == 0 && from[1] == kNoKeys) {
    return;
  }
  if (into[0] == 0 && into[1] == kNoKeys) {
    std::copy_n(from, kRecordHead + head_dim, into);
    return;
  }
  const float max = std::max(into[1], from[1]);
  // One of the two is 2^0, and the power is what folding takes longest for.
  const auto weight = [max](float own) { return own - max == 0 ? 1.0F : std::exp2(own - max); };
  const float into_weight = weight(into[1]);
  const float from_weight = weight(from[1]);
  into[0] = into[0] * into_weight + from[0] * from_weight;
  into[1] = max;
  for (int32_t i = kRecordHead; i < kRecordHead + head_dim; ++i) {
    into[i] = into[i] * into_weight + from[i] * from_weight;
  }
}

// The record's out / sum to query head `head` of row `row`; a learned sink adds to the sum alone.
// Adding zero makes zeros positive: whether a sum of
// nothing came out as -0 depends on the order of tiles.
inline void WriteRow(const AttentionArgs& args, int64_t row, int32_t head, const float* record) {
  constexpr float kLog2E = 1.4426950408889634F;
  const float* out = record + kRecordHead;
  float sum = record[0];
  if (args.sink_logits != nullptr) {
    sum += std::exp2(args.sink_logits[head] * kLog2E - record[1]);
  }
  const int32_t head_dim = args.kv.layout.head_dim;
  const int64_t offset = row * args.out_stride + int64_t{head} * head_dim;
  if (args.out_dtype == DType::kF32) {
    float* to = static_cast<float*>(args.out) + offset;
    for (int32_t i = 0; i < head_dim; ++i) {
      to[i] = out[i] / sum + 0.0F;
    }
  } else {
    Bf16* to = static_cast<Bf16*>(args.out) + offset;
    for (int32_t i = 0; i < head_dim; ++i) {
      to[i] = ToBf16(out[i] / sum + 0.0F);
    }
  }
}

}  // namespace ringserve
