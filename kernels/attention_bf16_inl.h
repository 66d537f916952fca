// What the two files of bf16 attention share: loading keys in pairs of dimensions, and softmax.
// Included once by each, on x86-64 only.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
// GCC's headers make undefined vectors by initialising a variable with itself and then warn of it.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <algorithm>
#include <cstdint>
#include <hwy/base.h>
#include <immintrin.h>
#include <limits>

#include "kernels/attention_kernel.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace ringserve {

namespace {

inline constexpr int64_t kPairs = kGroupKeys / 2;

inline constexpr int64_t kVectors = 4;  // of a row of scores

HWY_INLINE __m512bh AsBf16(__m512i bits) {
  return (__m512bh)bits;
}

HWY_INLINE __m512bh Broadcast(const uint32_t* pair) {
  return AsBf16(_mm512_set1_epi32(static_cast<int>(*pair)));
}

// Fetches rows that will be read, line by line, a few at a time, into the first level of caches
// (kLocality 3) or the second (2).
template <int kLocality>
class LineFetcher {
 public:
  // Rows [first, first + count) of `rows`, if there are any.
  HWY_INLINE LineFetcher(const PlaneRows& rows, int64_t first, int64_t count, int32_t row_bytes)
      : rows_(rows),
        row_(first),
        end_(rows.empty() ? first : first + count),
        row_bytes_(row_bytes) {}

  HWY_INLINE void Fetch(int32_t num_lines) {
    for (int32_t line = 0; line < num_lines && row_ < end_; ++line) {
      __builtin_prefetch(rows_[row_] + byte_, 0, kLocality);
      byte_ += 64;
      if (byte_ >= row_bytes_) {
        byte_ = 0;
        ++row_;
      }
    }
  }

 private:
  PlaneRows rows_;
  int64_t row_;
  int64_t end_;
  int32_t row_bytes_;
  int32_t byte_ = 0;  // of the row
};

// Pairs [pair, pair + kCount) of 16 keys, transposed: block[i] holds pair i of each key. Eight
// pairs at a time and constant counts, so that two blocks fit into registers.
template <int kCount, class Rows>
HWY_INLINE void LoadTransposed(const Rows& rows, int64_t pair, __m512i (&block)[8]) {
  constexpr auto kMask = static_cast<__mmask8>((1U << kCount) - 1);
  const auto load = [&](int64_t key) __attribute__((always_inline)) {
    const std::byte* from = rows[key] + 4 * pair;
    return kCount == 8 ? _mm256_loadu_epi32(from) : _mm256_maskz_loadu_epi32(kMask, from);
  };
  __m512i both[8];  // two keys each: first 0 to 3 with 4 to 7, then 8 to 11 with 12 to 15
  for (int64_t i = 0; i < 8; ++i) {
    const int64_t key = i < 4 ? i : i + 4;
    both[i] = _mm512_inserti64x4(_mm512_castsi256_si512(load(key)), load(key + 4), 1);
  }
  // 4 x 4 transpositions inside 128 bits: the four parts of quad[4 * h + j] hold pairs j and j + 4
  // of keys 8 h to 8 h + 3, then of the four keys after these.
  __m512i quad[8];
  for (int64_t h = 0; h < 2; ++h) {
    const __m512i low01 = _mm512_unpacklo_epi32(both[4 * h], both[4 * h + 1]);
    const __m512i high01 = _mm512_unpackhi_epi32(both[4 * h], both[4 * h + 1]);
    const __m512i low23 = _mm512_unpacklo_epi32(both[4 * h + 2], both[4 * h + 3]);
    const __m512i high23 = _mm512_unpackhi_epi32(both[4 * h + 2], both[4 * h + 3]);
    quad[4 * h] = _mm512_unpacklo_epi64(low01, low23);
    quad[4 * h + 1] = _mm512_unpackhi_epi64(low01, low23);
    quad[4 * h + 2] = _mm512_unpacklo_epi64(high01, high23);
    quad[4 * h + 3] = _mm512_unpackhi_epi64(high01, high23);
  }
  for (int32_t j = 0; j < 4; ++j) {
    block[j] = _mm512_shuffle_i32x4(quad[j], quad[4 + j], 0x88);
    block[4 + j] = _mm512_shuffle_i32x4(quad[j], quad[4 + j], 0xdd);
  }
}

// Pairs up the elements of two keys. Unpacking works inside 128 bits, so the first vector gets
// dimensions 0-3, 8-11, 16-19, 24-27 of 32 and the second one the others; the accumulators keep
// this order (NaturalOrder).
HWY_INLINE __m512i PairLow(__m512i a, __m512i b) {
  return _mm512_unpacklo_epi16(a, b);
}

HWY_INLINE __m512i PairHigh(__m512i a, __m512i b) {
  return _mm512_unpackhi_epi16(a, b);
}

// 2^x for x <= 1; 0 below the normal range; NaN stays NaN.
HWY_INLINE __m512 Exp2(__m512 x) {
  // x is the second operand: that is what vmaxps returns if one is NaN.
  const __m512 bounded = _mm512_max_ps(_mm512_set1_ps(-160.0F), x);
  const __m512 whole = _mm512_roundscale_ps(bounded, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 part = _mm512_sub_ps(bounded, whole);
  __m512 poly = _mm512_set1_ps(kExp2Poly[5]);
  for (int i = 4; i >= 0; --i) {
    poly = _mm512_fmadd_ps(poly, part, _mm512_set1_ps(kExp2Poly[i]));
  }
  poly = _mm512_fmadd_ps(poly, part, _mm512_set1_ps(1.0F));
  return _mm512_scalef_ps(poly, whole);
}

// Scores of 16 lanes, minus infinity where the row does not see one.
template <bool kAll>
HWY_INLINE __m512 LoadVisible(const float* scores, uint64_t visible, int64_t v) {
  if constexpr (kAll) {
    return _mm512_load_ps(scores + 16 * v);
  }
  return _mm512_mask_load_ps(_mm512_set1_ps(-std::numeric_limits<float>::infinity()),
                             static_cast<__mmask16>(visible >> (16 * v)),
                             scores + 16 * v);
}

template <bool kAll>
HWY_INLINE float Largest(const float* scores, uint64_t visible) {
  return _mm512_reduce_max_ps(_mm512_max_ps(
      _mm512_max_ps(LoadVisible<kAll>(scores, visible, 0), LoadVisible<kAll>(scores, visible, 1)),
      _mm512_max_ps(LoadVisible<kAll>(scores, visible, 2), LoadVisible<kAll>(scores, visible, 3))));
}

// Probabilities of one row over the group, relative to 2^max, in bf16 to `p`; takes them into its
// sum, which is multiplied with `correction` first.
template <bool kAll>
HWY_INLINE void Probabilities(const float* scores,
                              uint64_t visible,
                              float scale,
                              float max,
                              float correction,
                              float* sum,
                              uint16_t* p) {
  __m512 x[kVectors];
  for (int64_t v = 0; v < kVectors; ++v) {
    x[v] = LoadVisible<kAll>(scores, visible, v);
    x[v] = Exp2(_mm512_fmsub_ps(x[v], _mm512_set1_ps(scale), _mm512_set1_ps(max)));
    if constexpr (!kAll) {
      x[v] = _mm512_maskz_mov_ps(static_cast<__mmask16>(visible >> (16 * v)), x[v]);
    }
  }
  const __m512 total = _mm512_add_ps(_mm512_add_ps(x[0], x[1]), _mm512_add_ps(x[2], x[3]));
  _mm512_store_ps(sum, _mm512_fmadd_ps(_mm512_load_ps(sum), _mm512_set1_ps(correction), total));
  _mm512_store_si512(p, (__m512i)_mm512_cvtne2ps_pbh(x[1], x[0]));
  _mm512_store_si512(p + 32, (__m512i)_mm512_cvtne2ps_pbh(x[3], x[2]));
}

// Softmax of R rows from `row` on: probabilities and what to multiply their accumulators with. The
// maxima of all rows come first: their reductions are long chains that run side by side, and one
// vector of powers serves every row's correction.
template <int R, bool kAll>
HWY_INLINE void SoftmaxRowsOf(
    const AttendArgs& args, int32_t row, float* scores, uint32_t* p, float* correction) {
  static_assert(R <= 16);
  alignas(64) float change[16] = {};
  uint64_t visible[R];
  for (int64_t r = 0; r < R; ++r) {
    visible[r] = kAll ? ~uint64_t{0} : args.visible[row + r];
    if (visible[r] == 0) {
      continue;
    }
    if (args.rule != nullptr) {
      AdjustScores(
          *args.rule, args.rule_row + row + static_cast<int32_t>(r), scores + r * kGroupKeys);
    }
    float& max = args.max[row + r];
    const float largest = Largest<kAll>(scores + r * kGroupKeys, visible[r]);
    const float new_max = std::max(max, largest * args.scale);
    change[r] = max - new_max;
    max = new_max;
  }
  _mm512_store_ps(change, Exp2(_mm512_load_ps(change)));
  for (int64_t r = 0; r < R; ++r) {
    correction[r] = change[r];
    if (visible[r] == 0) {
      std::fill_n(p + r * kPairs, kPairs, 0U);
      continue;
    }
    Probabilities<kAll>(scores + r * kGroupKeys,
                        visible[r],
                        args.scale,
                        args.max[row + r],
                        correction[r],
                        args.sum + int64_t{row + r} * kSumLanes,
                        reinterpret_cast<uint16_t*>(p + r * kPairs));
  }
}

template <int R>
HWY_INLINE void SoftmaxRows(
    const AttendArgs& args, int32_t row, float* scores, uint32_t* p, float* correction) {
  if (args.visible == nullptr) {
    SoftmaxRowsOf<R, true>(args, row, scores, p, correction);
  } else {
    SoftmaxRowsOf<R, false>(args, row, scores, p, correction);
  }
}

}  // namespace
}  // namespace ringserve

HWY_POP_ATTRIBUTES
