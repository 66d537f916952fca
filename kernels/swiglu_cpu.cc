#include <algorithm>

#include "kernels/simd_targets.h"
#include "kernels/swiglu.h"
#include "kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/swiglu_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/simd_inl.h"

HWY_BEFORE_NAMESPACE();

namespace ringserve {
namespace HWY_NAMESPACE {

// gate * sigmoid(gate), through e^-|gate|, which cannot overflow. A NaN reaches the last product.
HWY_INLINE Vector Silu(Vector gate) {
  const Vector one = hn::Set(Floats(), 1.0F);
  const Vector e = ExpNotPositive(hn::Neg(hn::Abs(gate)));
  const Vector above = hn::IfThenElse(hn::Lt(gate, hn::Zero(Floats())), e, one);
  return hn::Mul(gate, hn::Div(above, hn::Add(one, e)));
}

template <typename Out>
void Activate(const float* gate, const float* up, Out* out, int64_t total) {
  for (int64_t j = 0; j < total; j += kLanes) {
    const int64_t count = std::min(kLanes, total - j);
    const Vector silu = Silu(LoadUpTo(gate + j, count));
    StoreUpTo(hn::Mul(silu, LoadUpTo(up + j, count)), out + j, count);
  }
}

// `count` elements of a row from `first`.
void SwiGluPart(const SwiGluArgs& args, int64_t row, int64_t first, int64_t count) {
  const int64_t ffn_dim = args.ffn_dim;
  const float* gate = args.gate_up + row * 2 * ffn_dim + first;
  const int64_t at = row * ffn_dim + first;
  if (args.out_dtype == DType::kBf16) {
    Activate(gate, gate + ffn_dim, static_cast<Bf16*>(args.out) + at, count);
  } else {
    Activate(gate, gate + ffn_dim, static_cast<float*>(args.out) + at, count);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace ringserve

HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace ringserve {

HWY_EXPORT(SwiGluPart);

void SwiGluCpu(const SwiGluArgs& args, ThreadPool& pool) {
  constexpr int64_t kPart = 4096;  // about two microseconds
  const int64_t parts = CeilDiv<int64_t>(args.ffn_dim, kPart);
  const int64_t grain = std::max<int64_t>(1, kPart / std::max(args.ffn_dim, 1));
  pool.ParallelFor(args.num_rows * parts, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i % parts * kPart;
      HWY_DYNAMIC_DISPATCH(SwiGluPart)
      (args, i / parts, begin, std::min(kPart, args.ffn_dim - begin));
    }
  });
}

}  // namespace ringserve

#endif
