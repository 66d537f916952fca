// Matrix product with a weight: y = x W^T, in one accumulation order along K for any number of
// rows, so that decode (few rows) and prefill (many) give the same bits.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/types.h"

namespace ringserve {

class ThreadPool;
struct SwiGluArgs;

// A weight [rows, cols] in the layout that the backend's MatMul wants. Borrowed from the slab it
// was packed into.
struct Matrix {
  const std::byte* data = nullptr;
  int64_t rows = 0;  // output features
  int64_t cols = 0;  // input features
  DType dtype = DType::kBf16;
};

// A tensor as it lies in a file, row-major, in host memory.
struct HostTensor {
  const std::byte* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  DType dtype = DType::kBf16;
};

// out[i, j] = sum over k of x[i, k] * weight[j, k], accumulated in float32 in one order along k for
// every row count; the sum is multiplied with the row's scale, then the bias is added. x is of the
// weight's dtype.
struct MatMulArgs {
  const void* x = nullptr;  // [num_rows, weight.cols]
  Matrix weight;
  float* out = nullptr;  // [num_rows, weight.rows]
  int32_t num_rows = 0;
  const float* bias = nullptr;  // [weight.rows], added to every row of the result; null: none
  // Of products on a CPU alone: MatMulWorkspaceBytes, 64-byte aligned; null: many rows take longer.
  std::byte* workspace = nullptr;
  // Of products on CUDA alone: [num_rows], what a deferred norm (rmsnorm.h) left of x; null: ones.
  const float* row_scales = nullptr;
};

// Bytes of the CPU layout of a [rows, cols] weight; a multiple of 128.
size_t PackedMatrixBytes(int64_t rows, int64_t cols, DType dtype);
// Packs the parts, stacked by rows, as `dtype` (kF32 or kBf16) into `to`, 128-byte aligned.
Matrix PackMatrixCpu(std::span<const HostTensor> parts,
                     DType dtype,
                     std::byte* to,
                     ThreadPool& pool);

// What this CPU's products of at most so many rows and columns of x want as a workspace; may be 0.
int64_t MatMulWorkspaceBytes(int64_t max_rows, int64_t max_cols, DType dtype);

void MatMulCpu(const MatMulArgs& args, ThreadPool& pool);

// A product whose result is activation.gate_up, and its activation, with the bits of MatMulCpu and
// SwiGluCpu one after the other. Products of many rows by AMX are activated while they are in the
// caches: what product.out, room for the result, holds afterwards is undefined.
void MatMulSwiGluCpu(const MatMulArgs& product, const SwiGluArgs& activation, ThreadPool& pool);

// In arithmetic of T over the same packed weight; out [num_rows, weight.rows].
template <typename T>
void MatMulRef(const MatMulArgs& args, T* out);

}  // namespace ringserve
