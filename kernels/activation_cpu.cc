#include <algorithm>
#include <cmath>

#include "kernels/activation.h"
#include "kernels/simd_targets.h"
#include "kernels/thread_pool.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/activation_cpu.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/simd_inl.h"

HWY_BEFORE_NAMESPACE();

namespace ringserve {
namespace HWY_NAMESPACE {

// 1 / (1 + e^-x) through e^-|x|, which cannot overflow.
HWY_INLINE Vector Sigmoid(Vector x) {
  const Vector one = hn::Set(Floats(), 1.0F);
  const Vector e = ExpNotPositive(hn::Neg(hn::Abs(x)));
  const Vector above = hn::IfThenElse(hn::Lt(x, hn::Zero(Floats())), e, one);
  return hn::Div(above, hn::Add(one, e));
}

// x Phi(x). There is no vector erfc at hand, and models with it are small.
HWY_INLINE Vector Gelu(Vector x) {
  const Floats d;
  HWY_ALIGN float lanes[kLanes];
  hn::Store(x, d, lanes);
  for (float& value : lanes) {
    value *= 0.5F * std::erfc(-value * 0.70710678F);
  }
  return hn::Load(d, lanes);
}

// f(gate) and what becomes of the other half. A NaN reaches the product.
HWY_INLINE Vector Apply(Activation activation, Vector x) {
  const Floats d;
  switch (activation) {
    case Activation::kSilu:
      return hn::Mul(x, Sigmoid(x));
    case Activation::kGelu:
      return Gelu(x);
    case Activation::kGeluTanh: {
      // (1 + tanh(y)) / 2 is the sigmoid of 2 y.
      const Vector cube = hn::Mul(hn::Mul(x, x), x);
      const Vector inner = hn::MulAdd(cube, hn::Set(d, 0.044715F), x);
      return hn::Mul(x, Sigmoid(hn::Mul(inner, hn::Set(d, 1.5957691216F))));
    }
    case Activation::kRelu:
      return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), hn::Zero(d), x);
    case Activation::kClampedSilu: {
      const Vector most = hn::Set(d, 7.0F);
      const Vector clamped = hn::IfThenElse(hn::Gt(x, most), most, x);
      return hn::Mul(clamped, Sigmoid(hn::Mul(clamped, hn::Set(d, 1.702F))));
    }
  }
  return x;
}

HWY_INLINE Vector Up(Activation activation, Vector up) {
  const Floats d;
  if (activation != Activation::kClampedSilu) {
    return up;
  }
  const Vector most = hn::Set(d, 7.0F);
  const Vector least = hn::Set(d, -7.0F);
  const Vector below = hn::IfThenElse(hn::Gt(up, most), most, up);
  return hn::Add(hn::IfThenElse(hn::Lt(below, least), least, below), hn::Set(d, 1.0F));
}

template <typename Out>
void Activate(const ActivationArgs& args, const float* gate, const float* up, Out* out) {
  for (int64_t j = 0; j < args.ffn_dim; j += kLanes) {
    const int64_t count = std::min<int64_t>(kLanes, args.ffn_dim - j);
    Vector value = Apply(args.activation, LoadUpTo(gate + j, count));
    if (up != nullptr) {
      value = hn::Mul(value, Up(args.activation, LoadUpTo(up + j, count)));
    }
    StoreUpTo(value, out + j, count);
  }
}

void ActivateRow(const ActivationArgs& args, int64_t row) {
  const int64_t ffn_dim = args.ffn_dim;
  const float* gate = args.in + row * ffn_dim * (args.gated ? 2 : 1);
  const float* up = args.gated ? gate + ffn_dim : nullptr;
  if (args.out_dtype == DType::kBf16) {
    Activate(args, gate, up, static_cast<Bf16*>(args.out) + row * ffn_dim);
  } else {
    Activate(args, gate, up, static_cast<float*>(args.out) + row * ffn_dim);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace ringserve

HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace ringserve {

HWY_EXPORT(ActivateRow);

void ActivationCpu(const ActivationArgs& args, ThreadPool& pool) {
  const int64_t grain = std::max<int64_t>(1, 4096 / std::max(args.ffn_dim, 1));
  pool.ParallelFor(args.num_rows, grain, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      HWY_DYNAMIC_DISPATCH(ActivateRow)(args, row);
    }
  });
}

}  // namespace ringserve

#endif
