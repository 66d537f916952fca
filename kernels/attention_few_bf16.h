// Attention of few rows with bf16 products: score_few and accumulate_few of
// AttentionKernelBf16(). On x86-64 only, for CPUs with AVX-512 and its bf16 dot product. Internal
// to the attention family.
#pragma once

#include <cstdint>

#include "kernels/attention_kernel.h"

namespace ringserve {

inline constexpr int32_t kMaxFewBf16 = 8;

void ScoreFewBf16(const AttendArgs& args);
void AccumulateFewBf16(const AttendArgs& args);

}  // namespace ringserve
