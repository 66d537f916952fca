#include <algorithm>
#include <cmath>

#include "kernels/layernorm.h"
#include "kernels/simd_targets.h"
#include "kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/layernorm_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/simd_inl.h"

HWY_BEFORE_NAMESPACE();

namespace ringserve {
namespace HWY_NAMESPACE {

// Adds the residual and returns the sum of the row.
float AddAndSum(float* x, const float* residual, int64_t hidden_dim) {
  const Floats d;
  Vector sum = hn::Zero(d);
  for (int64_t j = 0; j < hidden_dim; j += kLanes) {
    const int64_t count = std::min(kLanes, hidden_dim - j);
    Vector value = LoadUpTo(x + j, count);
    if (residual != nullptr) {
      value = hn::Add(value, LoadUpTo(residual + j, count));
      StoreUpTo(value, x + j, count);
    }
    sum = hn::Add(sum, value);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

float SumOfSquares(const float* x, float mean, int64_t hidden_dim) {
  const Floats d;
  Vector sum = hn::Zero(d);
  for (int64_t j = 0; j < hidden_dim; j += kLanes) {
    const int64_t count = std::min(kLanes, hidden_dim - j);
    const Vector part = hn::Sub(LoadUpTo(x + j, count), hn::Set(d, mean));
    // Lanes behind the end hold zeros, whose distance from the mean does not count.
    const Vector inside = hn::IfThenElseZero(hn::FirstN(d, static_cast<size_t>(count)), part);
    sum = hn::MulAdd(inside, inside, sum);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

template <typename Out>
void NormalizeRow(const LayerNormArgs& args, int64_t row) {
  const Floats d;
  const int64_t hidden_dim = args.hidden_dim;
  float* x = args.x + row * hidden_dim;
  const float* residual =
      args.residual_in == nullptr ? nullptr : args.residual_in + row * hidden_dim;
  const float mean =
      static_cast<float>(static_cast<double>(AddAndSum(x, residual, hidden_dim)) / args.hidden_dim);
  const double variance = static_cast<double>(SumOfSquares(x, mean, hidden_dim)) / args.hidden_dim;
  const auto scale = static_cast<float>(1 / std::sqrt(variance + static_cast<double>(args.eps)));
  Out* out = static_cast<Out*>(args.out) + row * hidden_dim;
  for (int64_t j = 0; j < hidden_dim; j += kLanes) {
    const int64_t count = std::min(kLanes, hidden_dim - j);
    const Vector part = hn::Sub(LoadUpTo(x + j, count), hn::Set(d, mean));
    const Vector scaled = hn::Mul(part, hn::Set(d, scale));
    StoreUpTo(hn::MulAdd(scaled, LoadUpTo(args.weight + j, count), LoadUpTo(args.bias + j, count)),
              out + j,
              count);
  }
}

void LayerNormRows(const LayerNormArgs& args, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; ++row) {
    if (args.out_dtype == DType::kBf16) {
      NormalizeRow<Bf16>(args, row);
    } else {
      NormalizeRow<float>(args, row);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace ringserve

HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace ringserve {

HWY_EXPORT(LayerNormRows);

void LayerNormCpu(const LayerNormArgs& args, ThreadPool& pool) {
  const int64_t grain = CeilDiv(16384, std::max(args.hidden_dim, 1));
  pool.ParallelFor(args.num_rows, grain, [&](int64_t first, int64_t last) {
    HWY_DYNAMIC_DISPATCH(LayerNormRows)(args, first, last);
  });
}

}  // namespace ringserve

#endif
