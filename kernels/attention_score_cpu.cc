#include <algorithm>

#include "kernels/attention_kernel.h"
#include "kernels/attention_score.h"
#include "kernels/simd_targets.h"
#include "kernels/softcap.h"
#include "kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention_score_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/simd_inl.h"

HWY_BEFORE_NAMESPACE();

namespace ringserve {
namespace HWY_NAMESPACE {

// (1 - e^-2|x|) / (1 + e^-2|x|) with the sign of x; near 0, where that cancels, a polynomial.
HWY_INLINE Vector Tanh(Vector x) {
  const Floats d;
  const Vector one = hn::Set(d, 1.0F);
  const Vector size = hn::Abs(x);
  const Vector e = ExpNotPositive(hn::Mul(size, hn::Set(d, -2.0F)));
  const Vector large = hn::Div(hn::Sub(one, e), hn::Add(one, e));
  // x - x^3/3 + 2x^5/15 - 17x^7/315 + 62x^9/2835: relative error below 1e-7 up to 0.3.
  const Vector square = hn::Mul(size, size);
  Vector p = hn::Set(d, 0.021869489F);
  p = hn::MulAdd(p, square, hn::Set(d, -0.053968254F));
  p = hn::MulAdd(p, square, hn::Set(d, 0.13333334F));
  p = hn::MulAdd(p, square, hn::Set(d, -0.33333334F));
  const Vector small = hn::MulAdd(hn::Mul(p, square), size, size);
  const Vector value = hn::IfThenElse(hn::Lt(size, hn::Set(d, 0.2F)), small, large);
  return hn::IfThenElse(hn::IsNaN(x), x, hn::CopySign(value, x));
}

void Adjust(const ScoreRule& rule, int32_t row, float* scores) {
  constexpr float kLog2E = 1.4426950408889634F;
  const Floats d;
  for (int64_t lane = 0; lane < kGroupKeys; lane += kLanes) {
    Vector score = hn::LoadU(d, scores + lane);
    if (rule.softcap > 0) {
      score = hn::Mul(Tanh(hn::Mul(score, hn::Set(d, rule.scale / rule.softcap))),
                      hn::Set(d, rule.softcap));
    } else {
      score = hn::Mul(score, hn::Set(d, rule.scale));
    }
    if (rule.bias != nullptr) {
      HWY_ALIGN float biases[kLanes];
      const float* table = rule.bias + rule.bias_rows[row] * (2 * int64_t{rule.reach} + 1);
      const int64_t distance = rule.first_position + lane - rule.positions[row];
      for (int64_t i = 0; i < kLanes; ++i) {
        biases[i] = table[std::clamp<int64_t>(distance + i, -rule.reach, rule.reach) + rule.reach];
      }
      score = hn::Add(score, hn::Load(d, biases));
    }
    hn::StoreU(hn::Mul(score, hn::Set(d, kLog2E)), d, scores + lane);
  }
}

void Softcap(float* x, int64_t count, float softcap) {
  const Floats d;
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t rest = std::min<int64_t>(kLanes, count - i);
    const Vector scaled = hn::Div(LoadUpTo(x + i, rest), hn::Set(d, softcap));
    StoreUpTo(hn::Mul(Tanh(scaled), hn::Set(d, softcap)), x + i, rest);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace ringserve

HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace ringserve {

HWY_EXPORT(Adjust);
HWY_EXPORT(Softcap);

void SoftcapCpu(const SoftcapArgs& args, ThreadPool& pool) {
  pool.ParallelFor(args.num_rows, 1, [&](int64_t first, int64_t last) {
    HWY_DYNAMIC_DISPATCH(Softcap)
    (args.x + first * args.size, (last - first) * args.size, args.softcap);
  });
}

void AdjustScores(const ScoreRule& rule, int32_t row, float* scores) {
  HWY_DYNAMIC_DISPATCH(Adjust)(rule, row, scores);
}

}  // namespace ringserve

#endif
