#include <cmath>

#include "kernels/rmsnorm.h"
#include "kernels/thread_pool.h"

namespace ringserve {
namespace {

void NormalizeRow(const RmsNormArgs& args, int64_t row) {
  const int64_t hidden_dim = args.hidden_dim;
  float* x = args.x + row * hidden_dim;
  float sum = 0;
  for (int64_t j = 0; j < hidden_dim; ++j) {
    if (args.residual_in != nullptr) {
      x[j] += args.residual_in[row * hidden_dim + j];
    }
    sum += x[j] * x[j];
  }
  const float scale = 1 / std::sqrt(sum / static_cast<float>(hidden_dim) + args.eps);
  for (int64_t j = 0; j < hidden_dim; ++j) {
    const float value = x[j] * scale * args.weight[j];
    if (args.out_dtype == DType::kBf16) {
      static_cast<Bf16*>(args.out)[row * hidden_dim + j] = ToBf16(value);
    } else {
      static_cast<float*>(args.out)[row * hidden_dim + j] = value;
    }
  }
}

}  // namespace

void RmsNormCpu(const RmsNormArgs& args, ThreadPool& pool) {
  pool.ParallelFor(args.num_rows, 4, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      NormalizeRow(args, row);
    }
  });
}

}  // namespace ringserve
