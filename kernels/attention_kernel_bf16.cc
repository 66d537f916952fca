// Attention with the bf16 dot product of AVX-512 (vdpbf16ps). Pairs of dimensions (for q.k) and
// pairs of keys (for p.v) lie side by side in a 32-bit lane:
//   keys    [head_dim / 2][64 keys]   a transposed group: a lane is a key, no horizontal sums
//   values  [32 pairs of keys][padded head_dim]
// A score is one chain of products along head_dim in ascending order, an output one chain along the
// keys, for any number of rows.
#if defined(__GNUC__) && !defined(__clang__)
// GCC's headers make undefined vectors by initialising a variable with itself and then warn of it.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <hwy/base.h>

#include "kernels/attention_kernel.h"
#include "kernels/cpu_features.h"

#if HWY_ARCH_X86_64
#include <algorithm>
#include <immintrin.h>
#include <limits>

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace ringserve {
namespace {

constexpr int32_t kPairs = kGroupKeys / 2;
// Rows that share a loaded key or value: 6 x 4 accumulators of the 32 registers.
constexpr int32_t kRows = 6;
constexpr int32_t kVectors = 4;

__m512bh AsBf16(__m512i bits) {
  return (__m512bh)bits;
}

__m512bh Broadcast(const uint32_t* pair) {
  return AsBf16(_mm512_set1_epi32(static_cast<int>(*pair)));
}

// 16 keys x up to 16 pairs of dimensions -> 16 pairs x 16 keys.
void Transpose(__m512i (&rows)[16]) {
  __m512i t[16];
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    rows[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    rows[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    rows[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    rows[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  // Now rows[4 * i + j] holds pairs j, j + 4, j + 8, j + 12 of keys 4 * i to 4 * i + 3.
  for (int j = 0; j < 4; ++j) {
    const __m512i low01 = _mm512_shuffle_i32x4(rows[j], rows[4 + j], 0x88);
    const __m512i high01 = _mm512_shuffle_i32x4(rows[j], rows[4 + j], 0xdd);
    const __m512i low23 = _mm512_shuffle_i32x4(rows[8 + j], rows[12 + j], 0x88);
    const __m512i high23 = _mm512_shuffle_i32x4(rows[8 + j], rows[12 + j], 0xdd);
    t[j] = _mm512_shuffle_i32x4(low01, low23, 0x88);
    t[j + 8] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
    t[j + 4] = _mm512_shuffle_i32x4(high01, high23, 0x88);
    t[j + 12] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
  }
  for (int i = 0; i < 16; ++i) {
    rows[i] = t[i];
  }
}

void PackKeys(const GroupRows& rows, DType /*bf16*/, int32_t head_dim, void* packed) {
  const int32_t pairs = head_dim / 2;
  auto* out = static_cast<uint32_t*>(packed);
  for (int32_t first_key = 0; first_key < kGroupKeys; first_key += 16) {
    for (int32_t pair = 0; pair < pairs; pair += 16) {
      const int32_t count = std::min(16, pairs - pair);
      const auto mask = static_cast<__mmask16>((1U << count) - 1);
      __m512i block[16];
      for (int32_t i = 0; i < 16; ++i) {
        const std::byte* row = rows[first_key + i];
        block[i] = row == nullptr ? _mm512_setzero_si512()
                                  : _mm512_maskz_loadu_epi32(mask, row + 4 * pair);
      }
      Transpose(block);
      uint32_t* to = out + int64_t{pair} * kGroupKeys + first_key;
      for (int32_t i = 0; i < count; ++i) {
        _mm512_store_si512(to + int64_t{i} * kGroupKeys, block[i]);
      }
    }
  }
}

void PackValues(const GroupRows& rows, DType /*bf16*/, int32_t head_dim, void* packed) {
  const int32_t padded = RoundUp(head_dim, kDimUnit);
  auto* out = static_cast<uint32_t*>(packed);
  // 16-bit element 2 i + k of the result is element i of key k (bit 5 of an index picks the key).
  alignas(64) uint16_t low[32];
  alignas(64) uint16_t high[32];
  for (uint16_t i = 0; i < 32; ++i) {
    low[i] = static_cast<uint16_t>((i / 2) | (i % 2) << 5);
    high[i] = static_cast<uint16_t>((i / 2 + 16) | (i % 2) << 5);
  }
  const __m512i pick_low = _mm512_load_si512(low);
  const __m512i pick_high = _mm512_load_si512(high);
  for (int32_t pair = 0; pair < kPairs; ++pair) {
    for (int32_t dim = 0; dim < head_dim; dim += 32) {
      const int32_t count = std::min(32, head_dim - dim);
      const auto mask = static_cast<__mmask32>((uint64_t{1} << count) - 1);
      __m512i key[2];
      for (int32_t k = 0; k < 2; ++k) {
        const std::byte* row = rows[2 * pair + k];
        key[k] =
            row == nullptr ? _mm512_setzero_si512() : _mm512_maskz_loadu_epi16(mask, row + 2 * dim);
      }
      uint32_t* to = out + int64_t{pair} * padded + dim;
      _mm512_store_si512(to, _mm512_permutex2var_epi16(key[0], pick_low, key[1]));
      if (count > 16) {
        _mm512_store_si512(to + 16, _mm512_permutex2var_epi16(key[0], pick_high, key[1]));
      }
    }
  }
}

// scores[r][key] = q of row r . key
template <int R>
void Scores(const uint32_t* q, const uint32_t* keys, int32_t pairs, float* scores) {
  __m512 sum[R][kVectors];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      sum[r][v] = _mm512_setzero_ps();
    }
  }
  for (int32_t i = 0; i < pairs; ++i) {
    __m512bh key[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      key[v] = AsBf16(_mm512_load_si512(keys + int64_t{i} * kGroupKeys + 16 * v));
    }
    for (int r = 0; r < R; ++r) {
      const __m512bh pair = Broadcast(q + int64_t{r} * pairs + i);
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] = _mm512_dpbf16_ps(sum[r][v], key[v], pair);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      _mm512_store_ps(scores + r * kGroupKeys + 16 * v, sum[r][v]);
    }
  }
}

// 2^x for x <= 1; 0 below the normal range; NaN stays NaN.
__m512 Exp2(__m512 x) {
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

// Softmax of one row over the group: probabilities in bf16 to `p`, returns what the row's
// accumulators are to be multiplied with.
float Softmax(
    const float* scores, uint64_t visible, float scale, float& max, float* sum, uint16_t* p) {
  __m512 x[kVectors];
  __mmask16 mask[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    mask[v] = static_cast<__mmask16>(visible >> (16 * v));
    x[v] = _mm512_mask_load_ps(
        _mm512_set1_ps(-std::numeric_limits<float>::infinity()), mask[v], scores + 16 * v);
  }
  const float largest =
      _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(x[0], x[1]), _mm512_max_ps(x[2], x[3])));
  const float new_max = std::max(max, largest * scale);
  const __m512 correction = Exp2(_mm512_set1_ps(max - new_max));
  max = new_max;
  for (int v = 0; v < kVectors; ++v) {
    x[v] = Exp2(_mm512_fmsub_ps(x[v], _mm512_set1_ps(scale), _mm512_set1_ps(new_max)));
    x[v] = _mm512_maskz_mov_ps(mask[v], x[v]);
  }
  const __m512 total = _mm512_add_ps(_mm512_add_ps(x[0], x[1]), _mm512_add_ps(x[2], x[3]));
  _mm512_store_ps(sum, _mm512_fmadd_ps(_mm512_load_ps(sum), correction, total));
  _mm512_store_si512(p, (__m512i)_mm512_cvtne2ps_pbh(x[1], x[0]));
  _mm512_store_si512(p + 32, (__m512i)_mm512_cvtne2ps_pbh(x[3], x[2]));
  return _mm512_cvtss_f32(correction);
}

// acc[r] = acc[r] * correction[r] + p[r] . values, for V vectors of dimensions.
template <int R, int V>
void Accumulate(const uint32_t* p,
                const uint32_t* values,
                int32_t padded,
                const float* correction,
                float* acc) {
  __m512 sum[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      // Adding zero makes a zero positive, so that products with nothing change no bit later.
      sum[r][v] = _mm512_fmadd_ps(_mm512_load_ps(acc + int64_t{r} * padded + 16 * v),
                                  _mm512_set1_ps(correction[r]),
                                  _mm512_setzero_ps());
    }
  }
  for (int32_t i = 0; i < kPairs; ++i) {
    __m512bh value[V];
    for (int v = 0; v < V; ++v) {
      value[v] = AsBf16(_mm512_load_si512(values + int64_t{i} * padded + 16 * v));
    }
    for (int r = 0; r < R; ++r) {
      const __m512bh pair = Broadcast(p + r * kPairs + i);
      for (int v = 0; v < V; ++v) {
        sum[r][v] = _mm512_dpbf16_ps(sum[r][v], value[v], pair);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      _mm512_store_ps(acc + int64_t{r} * padded + 16 * v, sum[r][v]);
    }
  }
}

template <int R>
void AttendRows(const AttendArgs& args, int32_t row) {
  constexpr uint64_t kAll = ~uint64_t{0};
  const int32_t padded = RoundUp(args.head_dim, kDimUnit);
  const int32_t pairs = args.head_dim / 2;
  alignas(64) float scores[R * kGroupKeys];
  alignas(64) uint32_t p[R * kPairs];
  float correction[R];
  uint64_t any = 0;
  for (int r = 0; r < R; ++r) {
    any |= args.visible == nullptr ? kAll : args.visible[row + r];
  }
  if (any == 0) {
    return;
  }
  Scores<R>(static_cast<const uint32_t*>(args.q) + int64_t{row} * pairs,
            static_cast<const uint32_t*>(args.keys),
            pairs,
            scores);
  for (int r = 0; r < R; ++r) {
    const uint64_t visible = args.visible == nullptr ? kAll : args.visible[row + r];
    if (visible == 0) {
      correction[r] = 1;
      std::fill_n(p + r * kPairs, kPairs, 0U);
      continue;
    }
    correction[r] = Softmax(scores + r * kGroupKeys,
                            visible,
                            args.scale,
                            args.max[row + r],
                            args.sum + int64_t{row + r} * kSumLanes,
                            reinterpret_cast<uint16_t*>(p + r * kPairs));
  }
  const auto* values = static_cast<const uint32_t*>(args.values);
  float* acc = args.acc + int64_t{row} * padded;
  int32_t dim = 0;
  for (; dim + 16 * kVectors <= padded; dim += 16 * kVectors) {
    Accumulate<R, kVectors>(p, values + dim, padded, correction, acc + dim);
  }
  if (dim + 32 <= padded) {
    Accumulate<R, 2>(p, values + dim, padded, correction, acc + dim);
    dim += 32;
  }
  if (dim < padded) {
    Accumulate<R, 1>(p, values + dim, padded, correction, acc + dim);
  }
}

void Attend(const AttendArgs& args) {
  const int32_t num_blocks = CeilDiv(args.num_rows, kRows);
  int32_t row = 0;
  for (int32_t block = 0; block < num_blocks; ++block) {
    const int32_t rows = CeilDiv(args.num_rows - row, num_blocks - block);
    switch (rows) {
      case 1:
        AttendRows<1>(args, row);
        break;
      case 2:
        AttendRows<2>(args, row);
        break;
      case 3:
        AttendRows<3>(args, row);
        break;
      case 4:
        AttendRows<4>(args, row);
        break;
      case 5:
        AttendRows<5>(args, row);
        break;
      default:
        AttendRows<kRows>(args, row);
        break;
    }
    row += rows;
  }
}

void Exp2Array(const float* x, float* out, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) {
    const auto mask = static_cast<__mmask16>((1U << std::min<int64_t>(16, count - i)) - 1);
    _mm512_mask_storeu_ps(out + i, mask, Exp2(_mm512_maskz_loadu_ps(mask, x + i)));
  }
}

constexpr AttentionKernel kKernel = {.q_dtype = DType::kBf16,
                                     .pack_keys = PackKeys,
                                     .pack_values = PackValues,
                                     .attend = Attend,
                                     .exp2 = Exp2Array};

}  // namespace
}  // namespace ringserve

HWY_POP_ATTRIBUTES

namespace ringserve {

const AttentionKernel* AttentionKernelBf16() {
  static const bool has_it = HasBf16Dot();
  return has_it ? &kKernel : nullptr;
}

}  // namespace ringserve

#else

namespace ringserve {

const AttentionKernel* AttentionKernelBf16() {
  return nullptr;
}

}  // namespace ringserve

#endif
