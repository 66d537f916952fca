#include "kernels/activation_cuda.h"
#include "kernels/cuda_util.cuh"
#include "kernels/launch_cuda.h"
#include "kernels/types.h"

namespace ringserve::cuda {
namespace {

constexpr int32_t kThreads = 256;

__device__ __forceinline__ float Sigmoid(float x) {
  return __fdiv_rn(1.0F, __fadd_rn(1.0F, expf(-x)));
}

// f of the gate. A NaN stays one.
template <Activation kActivation>
__device__ __forceinline__ float Apply(float x) {
  switch (kActivation) {
    case Activation::kSilu:
      return x * Sigmoid(x);
    case Activation::kGelu:
      return x * 0.5F * erfcf(-x * 0.70710678F);
    case Activation::kGeluTanh:
      // (1 + tanh(y)) / 2 is the sigmoid of 2 y.
      return x * Sigmoid(1.5957691216F * __fmaf_rn(x * x * x, 0.044715F, x));
    case Activation::kRelu:
      return x < 0 ? 0.0F : x;
    case Activation::kClampedSilu: {
      const float clamped = x > 7.0F ? 7.0F : x;
      return clamped * Sigmoid(1.702F * clamped);
    }
  }
  return x;
}

template <Activation kActivation>
__device__ __forceinline__ float Up(float up) {
  if (kActivation != Activation::kClampedSilu) {
    return up;
  }
  const float below = up > 7.0F ? 7.0F : up;
  return (below < -7.0F ? -7.0F : below) + 1.0F;
}

template <typename T, Activation kActivation>
__global__ void __launch_bounds__(kThreads) ActivationKernel(const ActivationArgs args) {
  AllowNextKernel();
  WaitForPreviousKernel();
  const auto i = static_cast<int32_t>(blockIdx.y * kThreads + threadIdx.x);
  if (i >= args.ffn_dim) {
    return;
  }
  const int64_t row = blockIdx.x;
  const float* in = args.in + row * args.ffn_dim * (args.gated ? 2 : 1) + i;
  float value = Apply<kActivation>(in[0]);
  if (args.gated) {
    value *= Up<kActivation>(in[args.ffn_dim]);
  }
  static_cast<T*>(args.out)[row * args.ffn_dim + i] = T(value);
}

template <typename T>
cudaError_t LaunchType(const ActivationArgs& args, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(args.num_rows),
                  static_cast<unsigned>(CeilDiv(args.ffn_dim, kThreads)));
  const auto launch = [&](auto kernel) {
    return LaunchOverlapping(kernel, grid, kThreads, 0, stream, args);
  };
  switch (args.activation) {
    case Activation::kSilu:
      return launch(ActivationKernel<T, Activation::kSilu>);
    case Activation::kGelu:
      return launch(ActivationKernel<T, Activation::kGelu>);
    case Activation::kGeluTanh:
      return launch(ActivationKernel<T, Activation::kGeluTanh>);
    case Activation::kRelu:
      return launch(ActivationKernel<T, Activation::kRelu>);
    case Activation::kClampedSilu:
      return args.gated ? launch(ActivationKernel<T, Activation::kClampedSilu>)
                        : cudaErrorInvalidValue;
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t LaunchActivation(const ActivationArgs& args, cudaStream_t stream) {
  if (args.ffn_dim < 1 || args.num_rows < 0) {
    return cudaErrorInvalidValue;
  }
  if (args.num_rows == 0) {
    return cudaSuccess;
  }
  switch (args.out_dtype) {
    case DType::kBf16:
      return LaunchType<__nv_bfloat16>(args, stream);
    case DType::kF16:
      return LaunchType<__half>(args, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace ringserve::cuda
