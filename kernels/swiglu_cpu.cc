#include <algorithm>
#include <cstddef>

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

void Span(const float* gate, const float* up, int64_t count, DType out_dtype, void* out) {
  if (out_dtype == DType::kBf16) {
    Activate(gate, up, static_cast<Bf16*>(out), count);
  } else {
    Activate(gate, up, static_cast<float*>(out), count);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace ringserve

HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace ringserve {

HWY_EXPORT(Span);

void SwiGluSpan(const float* gate, const float* up, int64_t count, DType out_dtype, void* out) {
  HWY_DYNAMIC_DISPATCH(Span)(gate, up, count, out_dtype, out);
}

void SwiGluCpu(const SwiGluArgs& args, ThreadPool& pool) {
  constexpr int64_t kPart = 4096;  // about two microseconds
  const int64_t ffn_dim = args.ffn_dim;
  const int64_t parts = CeilDiv(ffn_dim, kPart);
  const int64_t grain = std::max<int64_t>(1, kPart / std::max<int64_t>(ffn_dim, 1));
  pool.ParallelFor(args.num_rows * parts, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t row = i / parts;
      const int64_t begin = i % parts * kPart;
      const float* gate = args.gate_up + row * 2 * ffn_dim + begin;
      SwiGluSpan(
          gate,
          gate + ffn_dim,
          std::min(kPart, ffn_dim - begin),
          args.out_dtype,
          static_cast<std::byte*>(args.out) + (row * ffn_dim + begin) * DTypeBytes(args.out_dtype));
    }
  });
}

}  // namespace ringserve

#endif
