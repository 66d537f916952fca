// Attention of few rows in the arithmetic of AMX, by vectors: score_few and accumulate_few of
// AttentionKernelAmx(). On x86-64 only; internal to the attention family.
#pragma once

#include <cstdint>
#include <hwy/base.h>

#include "kernels/attention_kernel.h"

namespace ringserve {

inline constexpr int32_t kMaxFewAmx = 8;

void ScoreFewAmx(const AttendArgs& args);
void AccumulateFewAmx(const AttendArgs& args);

// acc[r] = acc[r] * correction[r] for rows of head_dim. Never inlined: what is added next must not
// be fused with the products.
HWY_NOINLINE void RescaleAmx(int64_t num_rows,
                             int64_t head_dim,
                             const float* correction,
                             float* acc);

}  // namespace ringserve
