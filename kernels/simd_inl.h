// What the elementwise kernels share, compiled once for each instruction set: include after
// <hwy/highway.h>, inside a file that foreach_target includes again and again.
//
// A tail shorter than a vector goes through the same code in a padded vector, so that an element's
// bits never depend on where in a row it stands.
#if defined(RINGSERVE_KERNELS_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RINGSERVE_KERNELS_SIMD_INL_H_
#undef RINGSERVE_KERNELS_SIMD_INL_H_
#else
#define RINGSERVE_KERNELS_SIMD_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <hwy/highway.h>

#include "kernels/types.h"

HWY_BEFORE_NAMESPACE();

namespace ringserve {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = HWY_CAPPED(float, 16);
using Vector = hn::Vec<Floats>;

constexpr auto kLanes = static_cast<int64_t>(hn::MaxLanes(Floats()));

// `count` <= kLanes floats, zeros behind them.
HWY_INLINE Vector LoadUpTo(const float* from, int64_t count) {
  const Floats d;
  if (count >= kLanes) {
    return hn::LoadU(d, from);
  }
  HWY_ALIGN float lanes[kLanes] = {};
  std::copy_n(from, count, lanes);
  return hn::Load(d, lanes);
}

HWY_INLINE void StoreUpTo(Vector value, float* to, int64_t count) {
  const Floats d;
  if (count >= kLanes) {
    hn::StoreU(value, d, to);
    return;
  }
  HWY_ALIGN float lanes[kLanes];
  hn::Store(value, d, lanes);
  std::copy_n(lanes, count, to);
}

// Rounds as ToBf16 does.
HWY_INLINE void StoreUpTo(Vector value, Bf16* to, int64_t count) {
  const hn::RebindToUnsigned<Floats> words;
  const hn::RebindToSigned<Floats> integers;
  const hn::Rebind<uint16_t, Floats> halves;
  const auto bits = hn::BitCast(words, value);
  const auto upper = hn::ShiftRight<16>(bits);
  const auto even = hn::And(upper, hn::Set(words, 1U));
  const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(words, 0x7fffU)), even));
  const auto quiet = hn::Or(upper, hn::Set(words, 0x40U));
  const auto nan = hn::RebindMask(words, hn::IsNaN(value));
  const auto half =
      hn::DemoteTo(halves, hn::BitCast(integers, hn::IfThenElse(nan, quiet, rounded)));
  auto* to_bits = reinterpret_cast<uint16_t*>(to);
  if (count >= kLanes) {
    hn::StoreU(half, halves, to_bits);
    return;
  }
  HWY_ALIGN uint16_t lanes[kLanes];
  hn::Store(half, halves, lanes);
  std::copy_n(lanes, count, to_bits);
}

// e^x for x <= 0, relative error below 2^-23; 0 where the result would be subnormal. What it gives
// for a NaN is not defined. Cody and Waite's reduction by ln 2 in two parts, then a polynomial.
HWY_INLINE Vector ExpNotPositive(Vector x) {
  const Floats d;
  const hn::RebindToSigned<Floats> integers;
  const Vector least = hn::Set(d, -87.33654F);  // e^least = 2^-126
  const Vector clamped = hn::Max(x, least);
  const Vector scale = hn::Round(hn::Mul(clamped, hn::Set(d, 1.44269504F)));
  Vector r = hn::NegMulAdd(scale, hn::Set(d, 0.693359375F), clamped);
  r = hn::NegMulAdd(scale, hn::Set(d, -2.12194440e-4F), r);
  // Minimax on [-ln 2 / 2, ln 2 / 2] (Moshier, Cephes).
  Vector p = hn::Set(d, 1.9875691500e-4F);
  p = hn::MulAdd(p, r, hn::Set(d, 1.3981999507e-3F));
  p = hn::MulAdd(p, r, hn::Set(d, 8.3334519073e-3F));
  p = hn::MulAdd(p, r, hn::Set(d, 4.1665795894e-2F));
  p = hn::MulAdd(p, r, hn::Set(d, 1.6666665459e-1F));
  p = hn::MulAdd(p, r, hn::Set(d, 5.0000001201e-1F));
  p = hn::Add(hn::MulAdd(hn::Mul(p, r), r, r), hn::Set(d, 1.0F));
  const auto exponent =
      hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(integers, scale), hn::Set(integers, 127)));
  return hn::IfThenElseZero(hn::Gt(x, least), hn::Mul(p, hn::BitCast(d, exponent)));
}

}  // namespace HWY_NAMESPACE
}  // namespace ringserve

HWY_AFTER_NAMESPACE();

#endif
