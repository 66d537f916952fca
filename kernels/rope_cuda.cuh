// The rotation of a head, wherever a kernel does it: one arithmetic, so that bits agree.
#pragma once

#include <cstdint>

#include "kernels/cuda_util.cuh"

namespace ringserve::cuda {

// Two dimensions of each half of a head, rotated and rounded.
template <typename T>
struct RotatedPairs {
  uint32_t low = 0;
  uint32_t high = 0;

  __device__ __forceinline__ RotatedPairs() = default;

  // angle: cosine and sine, twice.
  __device__ __forceinline__ RotatedPairs(float2 a, float2 b, float4 angle) {
    low = Pack<T>(__fmaf_rn(a.x, angle.x, -__fmul_rn(b.x, angle.y)),
                  __fmaf_rn(a.y, angle.z, -__fmul_rn(b.y, angle.w)));
    high = Pack<T>(__fmaf_rn(b.x, angle.x, __fmul_rn(a.x, angle.y)),
                   __fmaf_rn(b.y, angle.z, __fmul_rn(a.y, angle.w)));
  }
};

}  // namespace ringserve::cuda
