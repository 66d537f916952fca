// The arithmetic of tdpbf16ps (amx_inl.h) in vectors of AVX-512, bit for bit: sums over even and
// odd k by fused multiply-add. Included on x86-64 only, with SubnormalsAsZero around its use.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
// GCC's headers make undefined vectors by initialising a variable with itself and then warn of it.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <cstdint>
#include <cstring>
#include <hwy/base.h>
#include <immintrin.h>

#include "kernels/amx_inl.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace ringserve {
namespace {

// While it lives, this thread takes subnormal numbers as zero, as tiles do.
class SubnormalsAsZero {
 public:
  SubnormalsAsZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kFlush | kZeros); }

  ~SubnormalsAsZero() { _mm_setcsr(before_); }

  SubnormalsAsZero(const SubnormalsAsZero&) = delete;
  SubnormalsAsZero& operator=(const SubnormalsAsZero&) = delete;

 private:
  static constexpr uint32_t kFlush = 0x8000;
  static constexpr uint32_t kZeros = 0x0040;

  uint32_t before_;
};

// Sixteen pairs of bf16, widened.
struct EvenOdd {
  __m512 even;
  __m512 odd;
};

HWY_INLINE EvenOdd Split(__m512i pairs) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)),
          _mm512_castsi512_ps(
              _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000))))};
}

HWY_INLINE EvenOdd BroadcastPair(const void* pair) {
  int bits = 0;
  std::memcpy(&bits, pair, sizeof(bits));
  return Split(_mm512_set1_epi32(bits));
}

// What one product of tiles adds to sixteen results.
struct AmxSums {
  __m512 even;
  __m512 odd;

  HWY_INLINE AmxSums() : even(_mm512_setzero_ps()), odd(_mm512_setzero_ps()) {}

  HWY_INLINE void Add(const EvenOdd& a, const EvenOdd& b) {
    even = _mm512_fmadd_ps(a.even, b.even, even);
    odd = _mm512_fmadd_ps(a.odd, b.odd, odd);
  }

  HWY_INLINE __m512 Total() const { return _mm512_add_ps(even, odd); }
};

}  // namespace
}  // namespace ringserve

HWY_POP_ATTRIBUTES
