#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/activation.h"

namespace ringserve {
namespace {

template <typename T>
T Sigmoid(T x) {
  return T{1} / (T{1} + std::exp(-x));
}

template <typename T>
T Apply(Activation activation, T x) {
  switch (activation) {
    case Activation::kSilu:
      return x * Sigmoid(x);
    case Activation::kGelu:
      return x * T{0.5} * std::erfc(-x / std::numbers::sqrt2_v<T>);
    case Activation::kGeluTanh: {
      const T inner = std::sqrt(T{2} / std::numbers::pi_v<T>) * (x + T(0.044715) * x * x * x);
      return T{0.5} * x * (T{1} + std::tanh(inner));
    }
    case Activation::kRelu:
      return std::max(x, T{0});
    case Activation::kClampedSilu: {
      const T clamped = std::min(x, T{7});
      return clamped * Sigmoid(T(1.702) * clamped);
    }
  }
  return x;
}

}  // namespace

template <typename T>
void ActivationRef(const ActivationArgs& args, T* out) {
  const int64_t ffn_dim = args.ffn_dim;
  for (int64_t row = 0; row < args.num_rows; ++row) {
    const float* in = args.in + row * ffn_dim * (args.gated ? 2 : 1);
    for (int64_t i = 0; i < ffn_dim; ++i) {
      T up = args.gated ? T{in[ffn_dim + i]} : T{1};
      if (args.activation == Activation::kClampedSilu) {
        up = std::clamp(up, T{-7}, T{7}) + T{1};
      }
      out[row * ffn_dim + i] = Apply(args.activation, T{in[i]}) * up;
    }
  }
}

template void ActivationRef<float>(const ActivationArgs&, float*);
template void ActivationRef<double>(const ActivationArgs&, double*);

}  // namespace ringserve
