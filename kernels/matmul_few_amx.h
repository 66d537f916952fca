// Part of MatMulKernelAmx. On x86-64 only; internal to the matmul family.
#pragma once

#include "kernels/matmul_kernel.h"

namespace ringserve {

inline constexpr int64_t kMaxFewAmxRows = 2;

// At most kMaxFewAmxRows rows of x as they lie, for CPUs with AVX-512: the bits of AMX.
void MatMulFewAmx(const MatMulArgs& args, const MatMulBlock& block);

}  // namespace ringserve
