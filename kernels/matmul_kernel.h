// The inner part of MatMulCpu: one function for each instruction set. Internal to the matmul family
// and its tests.
//
// Every kernel gives an output the same sequence of operations whatever block it is computed in:
// acc = acc + w[k] * x[k] for ascending k (pair by pair in MatMulKernelBf16Dot), from zero, in one
// lane.
#pragma once

#include <cstdint>

#include "kernels/matmul.h"

namespace ringserve {

// Outputs that a block's first output is a multiple of.
inline constexpr int64_t kMatMulSlice = 16;

// Rows of x [first_row, first_row + num_rows) by outputs [first_output, first_output +
// num_outputs), which lie in one panel.
struct MatMulBlock {
  int64_t first_row = 0;
  int64_t num_rows = 0;
  int64_t first_output = 0;
  int64_t num_outputs = 0;
};

using MatMulKernel = void (*)(const MatMulArgs& args, const MatMulBlock& block);

// Products and sums in float32, for f32 and bf16; the best instruction set that Highway picks.
void MatMulKernelFloat(const MatMulArgs& args, const MatMulBlock& block);

// bf16 only, with vdpbf16ps (x86-64) or BFDOT and BFMMLA (Arm); requires HasBf16Dot(). They take
// subnormal inputs and results as zero and do not round between the two products of a pair and the
// sum the way float32 arithmetic would (to odd, on Arm); both are far below the rounding of the
// inputs.
void MatMulKernelBf16Dot(const MatMulArgs& args, const MatMulBlock& block);

// The one that MatMulCpu uses for weights of this dtype.
MatMulKernel ChooseMatMulKernel(DType dtype);
void MatMulWith(MatMulKernel kernel, const MatMulArgs& args, ThreadPool& pool);

}  // namespace ringserve
