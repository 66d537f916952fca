// Root mean square layer norm (Zhang and Sennrich 2019) with the residual addition before it.
#pragma once

#include <cstdint>

#include "kernels/types.h"

namespace ringserve {

class ThreadPool;

// x += residual_in (if not null), then out = x / sqrt(mean(x^2) + eps) * weight, rounded to
// out_dtype.
//
// Deferred (`scales` not null; CUDA alone): out = x * weight, and scales = 1 / sqrt(mean(x^2) +
// eps), which products of `out` multiply their results with (MatMulArgs::row_scales): x can be
// multiplied before all of its row is known. What residual_in holds afterwards is undefined.
struct RmsNormArgs {
  float* x = nullptr;                  // [num_rows, hidden_dim], updated in place
  const float* residual_in = nullptr;  // [num_rows, hidden_dim] or null
  const float* weight = nullptr;       // [hidden_dim]
  void* out = nullptr;                 // [num_rows, hidden_dim]; may be x itself if float32
  int32_t num_rows = 0;
  int32_t hidden_dim = 0;
  float eps = 0;
  DType out_dtype = DType::kBf16;
  float* scales = nullptr;  // [num_rows], if CanDeferRmsNorm; null: not deferred
};

// bf16 has the range of x.
constexpr bool CanDeferRmsNorm(int32_t hidden_dim, DType out_dtype) {
  return hidden_dim % 64 == 0 && out_dtype == DType::kBf16;
}

// The sum of squares is accumulated in one order whatever num_rows is.
void RmsNormCpu(const RmsNormArgs& args, ThreadPool& pool);

// In arithmetic of T; `out` as T [num_rows, hidden_dim]; does not touch args.x or args.out.
template <typename T>
void RmsNormRef(const RmsNormArgs& args, T* out);

}  // namespace ringserve
