#include <algorithm>
#include <cmath>

#include "kernels/rmsnorm.h"
#include "kernels/simd_targets.h"
#include "kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rmsnorm_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/simd_inl.h"

HWY_BEFORE_NAMESPACE();

namespace ringserve {
namespace HWY_NAMESPACE {

// Adds the residual to the row and returns the sum of its squares: element j goes to sum j modulo
// four vectors, and the sums are folded in one order.
float AddAndSquare(float* x, const float* residual, int64_t hidden_dim) {
  const Floats d;
  Vector sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  for (int64_t j = 0; j < hidden_dim; j += 4 * kLanes) {
    for (int64_t part = 0; part < 4; ++part) {
      const int64_t first = j + part * kLanes;
      const int64_t count = std::min(kLanes, hidden_dim - first);
      if (count <= 0) {
        break;
      }
      Vector value = LoadUpTo(x + first, count);
      if (residual != nullptr) {
        value = hn::Add(value, LoadUpTo(residual + first, count));
        StoreUpTo(value, x + first, count);
      }
      sums[part] = hn::MulAdd(value, value, sums[part]);
    }
  }
  const Vector sum = hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

template <typename Out>
void NormalizeRow(const RmsNormArgs& args, int64_t row) {
  const Floats d;
  const int64_t hidden_dim = args.hidden_dim;
  float* x = args.x + row * hidden_dim;
  const float* residual =
      args.residual_in == nullptr ? nullptr : args.residual_in + row * hidden_dim;
  const double mean = static_cast<double>(AddAndSquare(x, residual, hidden_dim)) / args.hidden_dim;
  const Vector scale =
      hn::Set(d, static_cast<float>(1 / std::sqrt(mean + static_cast<double>(args.eps))));
  Out* out = static_cast<Out*>(args.out) + row * hidden_dim;
  for (int64_t j = 0; j < hidden_dim; j += kLanes) {
    const int64_t count = std::min(kLanes, hidden_dim - j);
    const Vector scaled = hn::Mul(LoadUpTo(x + j, count), scale);
    StoreUpTo(hn::Mul(scaled, LoadUpTo(args.weight + j, count)), out + j, count);
  }
}

void RmsNormRows(const RmsNormArgs& args, int64_t first, int64_t last) {
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

HWY_EXPORT(RmsNormRows);

void RmsNormCpu(const RmsNormArgs& args, ThreadPool& pool) {
  // A few microseconds of work for each piece.
  const int64_t grain = CeilDiv(16384, std::max(args.hidden_dim, 1));
  pool.ParallelFor(args.num_rows, grain, [&](int64_t first, int64_t last) {
    HWY_DYNAMIC_DISPATCH(RmsNormRows)(args, first, last);
  });
}

}  // namespace ringserve

#endif
