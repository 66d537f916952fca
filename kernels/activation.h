// The activations of feed-forward layers other than SwiGLU (swiglu.h), with or without a gate.
#pragma once

#include <cstdint>

#include "kernels/types.h"

namespace ringserve {

class ThreadPool;

enum class Activation : uint8_t {
  kSilu,
  kGelu,      // x Phi(x) (Hendrycks and Gimpel 2016), by the error function
  kGeluTanh,  // its approximation by a tanh
  kRelu,
  // gpt-oss: the gate is clamped to at most 7 and goes through x sigmoid(1.702 x), the other half
  // is clamped to [-7, 7] and 1 is added to it. Gated only.
  kClampedSilu,
};

// gated:     out = f(gate) * up, `in` is [num_rows, 2 * ffn_dim], gate first
// otherwise: out = f(in), `in` is [num_rows, ffn_dim]
// rounded to out_dtype.
struct ActivationArgs {
  const float* in = nullptr;
  void* out = nullptr;  // [num_rows, ffn_dim]
  int32_t num_rows = 0;
  int32_t ffn_dim = 0;
  Activation activation = Activation::kSilu;
  bool gated = true;
  DType out_dtype = DType::kBf16;
};

// The bits of an element depend on the element alone.
void ActivationCpu(const ActivationArgs& args, ThreadPool& pool);

template <typename T>
void ActivationRef(const ActivationArgs& args, T* out);

}  // namespace ringserve
