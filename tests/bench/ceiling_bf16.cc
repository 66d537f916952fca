#include "tests/bench/ceiling_bf16.h"

#include <hwy/base.h>

#if HWY_ARCH_X86_64
#include <immintrin.h>

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace ringserve {

float MultiplyBf16Dot(int64_t num_steps) {
  constexpr int kChains = 24;
  const __m512bh w = (__m512bh)_mm512_set1_epi32(0x3c003c00);
  __m512i x = _mm512_set1_epi32(0x38003800);
  __m512 acc[kChains];
  for (__m512& sum : acc) {
    sum = _mm512_setzero_ps();
  }
  for (int64_t step = 0; step < num_steps; ++step) {
    asm volatile("" : "+v"(x));  // a new x as far as the compiler knows
    HWY_UNROLL(24)
    for (int i = 0; i < kChains; ++i) {
      acc[i] = _mm512_dpbf16_ps(acc[i], w, (__m512bh)x);
    }
  }
  float total = 0;
  for (const __m512& sum : acc) {
    float lanes[16];
    _mm512_storeu_ps(lanes, sum);
    total += lanes[0];
  }
  return total;
}

}  // namespace ringserve

HWY_POP_ATTRIBUTES

#elif HWY_ARCH_ARM_A64
#include <arm_neon.h>

HWY_PUSH_ATTRIBUTES("arch=armv8.2-a+bf16")

namespace ringserve {

float MultiplyBf16Dot(int64_t num_steps) {
  constexpr int kChains = 24;
  const bfloat16x8_t w = vreinterpretq_bf16_u16(vdupq_n_u16(0x3c00));
  uint16x8_t x = vdupq_n_u16(0x3800);
  float32x4_t acc[kChains];
  HWY_UNROLL(24)
  for (int i = 0; i < kChains; ++i) {
    acc[i] = vdupq_n_f32(0);
  }
  for (int64_t step = 0; step < num_steps; ++step) {
    asm volatile("" : "+w"(x));  // a new x as far as the compiler knows
    HWY_UNROLL(24)
    for (int i = 0; i < kChains; ++i) {
      acc[i] = vbfmmlaq_f32(acc[i], w, vreinterpretq_bf16_u16(x));
    }
  }
  float total = 0;
  HWY_UNROLL(24)
  for (int i = 0; i < kChains; ++i) {
    total += vgetq_lane_f32(acc[i], 0);
  }
  return total;
}

}  // namespace ringserve

HWY_POP_ATTRIBUTES

#else

#include <cstdlib>

namespace ringserve {

float MultiplyBf16Dot(int64_t /*num_steps*/) {
  std::abort();
}

}  // namespace ringserve

#endif
