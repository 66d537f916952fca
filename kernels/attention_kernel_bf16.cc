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
#include <iterator>
#include <limits>
#include <type_traits>

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace ringserve {
namespace {

constexpr int64_t kPairs = kGroupKeys / 2;
// Rows that share a loaded key or value: 6 x 4 accumulators of the 32 registers.
constexpr int32_t kRows = 6;
constexpr int64_t kVectors = 4;
constexpr int32_t kMaxFew = 8;

__m512bh AsBf16(__m512i bits) {
  return (__m512bh)bits;
}

__m512bh Broadcast(const uint32_t* pair) {
  return AsBf16(_mm512_set1_epi32(static_cast<int>(*pair)));
}

// Pairs [pair, pair + kCount) of 16 keys, transposed: block[i] holds pair i of each key. Eight
// pairs at a time and constant counts, so that two blocks fit into registers.
template <int kCount>
HWY_INLINE void LoadTransposed(const std::byte* const* rows, int64_t pair, __m512i (&block)[8]) {
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

template <int kCount>
HWY_INLINE void PackPairs(const std::byte* const* rows, int64_t pair, uint32_t* out) {
  __m512i block[8];
  LoadTransposed<kCount>(rows, pair, block);
  for (int64_t i = 0; i < kCount; ++i) {
    _mm512_store_si512(out + int64_t{pair + i} * kGroupKeys, block[i]);
  }
}

void PackKeys(const GroupRows& rows, DType /*bf16*/, int32_t head_dim, void* packed) {
  const int32_t pairs = head_dim / 2;  // a multiple of 4
  for (int64_t first_key = 0; first_key < kGroupKeys; first_key += 16) {
    auto* out = static_cast<uint32_t*>(packed) + first_key;
    int64_t pair = 0;
    for (; pair + 8 <= pairs; pair += 8) {
      PackPairs<8>(rows + first_key, pair, out);
    }
    if (pair < pairs) {
      PackPairs<4>(rows + first_key, pair, out);
    }
  }
}

// Pairs up the elements of two keys. Unpacking works inside 128 bits, so the first vector gets
// dimensions 0-3, 8-11, 16-19, 24-27 of 32 and the second one the others; the accumulators keep
// this order (NaturalOrder).
__m512i PairLow(__m512i a, __m512i b) {
  return _mm512_unpacklo_epi16(a, b);
}

__m512i PairHigh(__m512i a, __m512i b) {
  return _mm512_unpackhi_epi16(a, b);
}

void NaturalOrder(const float* acc, int32_t head_dim, float* out) {
  // Bit 4 of an index picks the second vector.
  const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  for (int64_t dim = 0; dim < head_dim; dim += 32) {
    const __m512 a = _mm512_load_ps(acc + dim);
    const __m512 b = _mm512_load_ps(acc + dim + 16);
    const auto mask =
        static_cast<__mmask32>((uint64_t{1} << std::min<int64_t>(32, head_dim - dim)) - 1);
    _mm512_mask_storeu_ps(
        out + dim, static_cast<__mmask16>(mask), _mm512_permutex2var_ps(a, low, b));
    _mm512_mask_storeu_ps(
        out + dim + 16, static_cast<__mmask16>(mask >> 16), _mm512_permutex2var_ps(a, high, b));
  }
}

void PackValues(const GroupRows& rows, DType /*bf16*/, int32_t head_dim, void* packed) {
  auto* out = static_cast<uint32_t*>(packed);
  for (int64_t pair = 0; pair < kPairs; ++pair) {
    for (int64_t dim = 0; dim < head_dim; dim += 32) {
      const int64_t count = std::min<int64_t>(32, head_dim - dim);
      const auto mask = static_cast<__mmask32>((uint64_t{1} << count) - 1);
      const __m512i a = _mm512_maskz_loadu_epi16(mask, rows[2 * pair] + 2 * dim);
      const __m512i b = _mm512_maskz_loadu_epi16(mask, rows[2 * pair + 1] + 2 * dim);
      _mm512_store_si512(out, PairLow(a, b));
      _mm512_store_si512(out + 16, PairHigh(a, b));
      out += 32;
    }
  }
}

// scores[r][key] = q of row r . key
template <int R>
void Scores(const uint32_t* q, const uint32_t* keys, int32_t pairs, float* scores) {
  __m512 sum[R][kVectors];
  for (int64_t r = 0; r < R; ++r) {
    for (int64_t v = 0; v < kVectors; ++v) {
      sum[r][v] = _mm512_setzero_ps();
    }
  }
  for (int64_t i = 0; i < pairs; ++i) {
    __m512bh key[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) {
      key[v] = AsBf16(_mm512_load_si512(keys + int64_t{i} * kGroupKeys + 16 * v));
    }
    for (int64_t r = 0; r < R; ++r) {
      const __m512bh pair = Broadcast(q + int64_t{r} * pairs + i);
      for (int64_t v = 0; v < kVectors; ++v) {
        sum[r][v] = _mm512_dpbf16_ps(sum[r][v], key[v], pair);
      }
    }
  }
  for (int64_t r = 0; r < R; ++r) {
    for (int64_t v = 0; v < kVectors; ++v) {
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
  for (int64_t v = 0; v < kVectors; ++v) {
    mask[v] = static_cast<__mmask16>(visible >> (16 * v));
    x[v] = _mm512_mask_load_ps(
        _mm512_set1_ps(-std::numeric_limits<float>::infinity()), mask[v], scores + 16 * v);
  }
  const float largest =
      _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(x[0], x[1]), _mm512_max_ps(x[2], x[3])));
  const float new_max = std::max(max, largest * scale);
  const __m512 correction = Exp2(_mm512_set1_ps(max - new_max));
  max = new_max;
  for (int64_t v = 0; v < kVectors; ++v) {
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
template <int R, int64_t V>
void Accumulate(const uint32_t* p,
                const uint32_t* values,
                int32_t padded,
                const float* correction,
                float* acc) {
  __m512 sum[R][V];
  for (int64_t r = 0; r < R; ++r) {
    for (int64_t v = 0; v < V; ++v) {
      // Adding zero makes a zero positive, so that products with nothing change no bit later.
      sum[r][v] = _mm512_fmadd_ps(_mm512_load_ps(acc + int64_t{r} * padded + 16 * v),
                                  _mm512_set1_ps(correction[r]),
                                  _mm512_setzero_ps());
    }
  }
  for (int64_t i = 0; i < kPairs; ++i) {
    __m512bh value[V];
    for (int64_t v = 0; v < V; ++v) {
      value[v] = AsBf16(_mm512_load_si512(values + int64_t{i} * padded + 16 * v));
    }
    for (int64_t r = 0; r < R; ++r) {
      const __m512bh pair = Broadcast(p + r * kPairs + i);
      for (int64_t v = 0; v < V; ++v) {
        sum[r][v] = _mm512_dpbf16_ps(sum[r][v], value[v], pair);
      }
    }
  }
  for (int64_t r = 0; r < R; ++r) {
    for (int64_t v = 0; v < V; ++v) {
      _mm512_store_ps(acc + int64_t{r} * padded + 16 * v, sum[r][v]);
    }
  }
}

// Fetches part `step` of `num_steps` of a group's rows, line after line as they lie, into the
// second-level cache: the first level has too few miss buffers to keep memory busy (Zen 4, decode
// at 8k keys, head_dim 128: 41 % of read bandwidth into the first level, 71 % into the second).
HWY_INLINE void Fetch(const GroupRows& rows, int32_t head_dim, int64_t step, int64_t num_steps) {
  const int64_t end = kGroupKeys * (step + 1) / num_steps;
  for (int64_t lane = kGroupKeys * step / num_steps; lane < end; ++lane) {
    for (int64_t byte = 0; byte < int64_t{2} * head_dim; byte += 64) {
      _mm_prefetch(rows[lane] + byte, _MM_HINT_T1);
    }
  }
}

// Adds pairs [pair, pair + kCount) of 16 keys to their scores.
template <int R, int kCount>
HWY_INLINE void AddPairs(const std::byte* const* rows,
                         const uint32_t* q,
                         int32_t pairs,
                         int64_t pair,
                         __m512 (&sum)[R]) {
  __m512i block[8];
  LoadTransposed<kCount>(rows, pair, block);
  HWY_UNROLL(8)
  for (int64_t i = 0; i < kCount; ++i) {
    HWY_UNROLL(8)
    for (int64_t r = 0; r < R; ++r) {
      sum[r] =
          _mm512_dpbf16_ps(sum[r], AsBf16(block[i]), Broadcast(q + int64_t{r} * pairs + pair + i));
    }
  }
}

// scores[r][key] = q of row r . key, from the keys as they lie.
template <int R>
void ScoresFew(const AttendArgs& args, float* scores) {
  const int32_t pairs = args.head_dim / 2;
  const auto* q = static_cast<const uint32_t*>(args.q);
  // Few rows are few chains of products, too few to hide their latency: two blocks of keys then
  // run side by side.
  constexpr int64_t kBlocks = R <= 4 ? 2 : 1;
  const int32_t num_steps = pairs / 8 * (kGroupKeys / 16 / kBlocks);
  int32_t step = 0;
  for (int64_t first_key = 0; first_key < kGroupKeys; first_key += 16 * kBlocks) {
    const std::byte* const* rows = *args.key_rows + first_key;
    __m512 sum[kBlocks][R];
    for (auto& block : sum) {
      for (__m512& row : block) {
        row = _mm512_setzero_ps();
      }
    }
    int64_t pair = 0;
    for (; pair + 8 <= pairs; pair += 8) {
      Fetch(*args.value_rows, args.head_dim, step++, num_steps);
      AddPairs<R, 8>(rows, q, pairs, pair, sum[0]);
      if constexpr (kBlocks == 2) {
        AddPairs<R, 8>(rows + 16, q, pairs, pair, sum[1]);
      }
    }
    if (pair < pairs) {
      AddPairs<R, 4>(rows, q, pairs, pair, sum[0]);
      if constexpr (kBlocks == 2) {
        AddPairs<R, 4>(rows + 16, q, pairs, pair, sum[1]);
      }
    }
    for (int64_t b = 0; b < kBlocks; ++b) {
      for (int64_t r = 0; r < R; ++r) {
        _mm512_store_ps(scores + r * kGroupKeys + first_key + 16 * b, sum[b][r]);
      }
    }
  }
}

// Accumulate from the values as they lie, for V vectors of dimensions from `dim` on.
template <int R, int64_t V>
void AccumulateFew(const AttendArgs& args,
                   int64_t dim,
                   const uint32_t* p,
                   const float* correction) {
  const int32_t padded = RoundUp(args.head_dim, kDimUnit);
  float* acc = args.acc + dim;
  __m512 sum[R][V];
  for (int64_t r = 0; r < R; ++r) {
    for (int64_t v = 0; v < V; ++v) {
      sum[r][v] = _mm512_fmadd_ps(_mm512_load_ps(acc + int64_t{r} * padded + 16 * v),
                                  _mm512_set1_ps(correction[r]),
                                  _mm512_setzero_ps());
    }
  }
  const int64_t num_steps = kPairs * CeilDiv<int64_t>(args.head_dim, 16 * V);
  const int64_t first_step = kPairs * (dim / (16 * V));
  const int64_t last = std::min<int64_t>(32, args.head_dim - dim - 16 * (V - 2));
  const auto mask = static_cast<__mmask32>((uint64_t{1} << last) - 1);
  for (int64_t i = 0; i < kPairs; ++i) {
    const std::byte* rows[2] = {(*args.value_rows)[2 * i], (*args.value_rows)[2 * i + 1]};
    Fetch(*args.next_key_rows, args.head_dim, first_step + i, num_steps);
    __m512i value[V];
    for (int64_t v = 0; v < V; v += 2) {
      const int64_t offset = 2 * (int64_t{dim} + 16 * v);
      const __mmask32 part = v + 2 == V ? mask : ~__mmask32{0};
      const __m512i a = _mm512_maskz_loadu_epi16(part, rows[0] + offset);
      const __m512i b = _mm512_maskz_loadu_epi16(part, rows[1] + offset);
      value[v] = PairLow(a, b);
      value[v + 1] = PairHigh(a, b);
    }
    for (int64_t r = 0; r < R; ++r) {
      const __m512bh pair = Broadcast(p + r * kPairs + i);
      for (int64_t v = 0; v < V; ++v) {
        sum[r][v] = _mm512_dpbf16_ps(sum[r][v], AsBf16(value[v]), pair);
      }
    }
  }
  for (int64_t r = 0; r < R; ++r) {
    for (int64_t v = 0; v < V; ++v) {
      _mm512_store_ps(acc + int64_t{r} * padded + 16 * v, sum[r][v]);
    }
  }
}

// Softmax of R rows from `row` on: probabilities and what to multiply their accumulators with.
template <int R>
void SoftmaxRows(
    const AttendArgs& args, int32_t row, float* scores, uint32_t* p, float* correction) {
  for (int64_t r = 0; r < R; ++r) {
    const uint64_t visible = args.visible == nullptr ? ~uint64_t{0} : args.visible[row + r];
    if (visible == 0) {
      correction[r] = 1;
      std::fill_n(p + r * kPairs, kPairs, 0U);
      continue;
    }
    if (args.rule != nullptr) {
      AdjustScores(
          *args.rule, args.rule_row + row + static_cast<int32_t>(r), scores + r * kGroupKeys);
    }
    correction[r] = Softmax(scores + r * kGroupKeys,
                            visible,
                            args.scale,
                            args.max[row + r],
                            args.sum + int64_t{row + r} * kSumLanes,
                            reinterpret_cast<uint16_t*>(p + r * kPairs));
  }
}

template <int R>
void AttendFewRows(const AttendArgs& args) {
  alignas(64) float scores[R * kGroupKeys];
  alignas(64) uint32_t p[R * kPairs];
  float correction[R];
  ScoresFew<R>(args, scores);
  SoftmaxRows<R>(args, 0, scores, p, correction);
  int64_t dim = 0;
  if constexpr (R <= 4) {
    for (; dim + 64 <= args.head_dim; dim += 64) {
      AccumulateFew<R, 4>(args, dim, p, correction);
    }
  }
  for (; dim < args.head_dim; dim += 32) {
    AccumulateFew<R, 2>(args, dim, p, correction);
  }
}

void AttendFew(const AttendArgs& args) {
  static constexpr void (*kByRows[])(const AttendArgs&) = {AttendFewRows<1>,
                                                           AttendFewRows<2>,
                                                           AttendFewRows<3>,
                                                           AttendFewRows<4>,
                                                           AttendFewRows<5>,
                                                           AttendFewRows<6>,
                                                           AttendFewRows<7>,
                                                           AttendFewRows<8>};
  static_assert(std::size(kByRows) == kMaxFew);
  kByRows[args.num_rows - 1](args);
}

template <int R>
void AttendRows(const AttendArgs& args, int32_t row) {
  const int32_t padded = RoundUp(args.head_dim, kDimUnit);
  const int32_t pairs = args.head_dim / 2;
  alignas(64) float scores[R * kGroupKeys];
  alignas(64) uint32_t p[R * kPairs];
  float correction[R];
  if (args.visible != nullptr &&
      std::all_of(args.visible + row, args.visible + row + R, [](uint64_t v) { return v == 0; })) {
    return;
  }
  Scores<R>(static_cast<const uint32_t*>(args.q) + int64_t{row} * pairs,
            static_cast<const uint32_t*>(args.packed_keys),
            pairs,
            scores);
  SoftmaxRows<R>(args, row, scores, p, correction);
  const auto* values = static_cast<const uint32_t*>(args.packed_values);
  float* acc = args.acc + int64_t{row} * padded;
  int64_t dim = 0;
  for (; dim + 16 * kVectors <= padded; dim += 16 * kVectors) {
    Accumulate<R, kVectors>(p, values + dim, padded, correction, acc + dim);
  }
  if (dim < padded) {
    Accumulate<R, 2>(p, values + dim, padded, correction, acc + dim);
  }
}

constexpr void (*kAttendRows[])(const AttendArgs&, int32_t) = {
    AttendRows<1>, AttendRows<2>, AttendRows<3>, AttendRows<4>, AttendRows<5>, AttendRows<6>};
static_assert(std::size(kAttendRows) == kRows);

void Attend(const AttendArgs& args) {
  const int32_t num_blocks = CeilDiv(args.num_rows, kRows);
  int32_t row = 0;
  for (int32_t block = 0; block < num_blocks; ++block) {
    const int32_t rows = CeilDiv(args.num_rows - row, num_blocks - block);
    Fetch(*args.next_key_rows, args.head_dim, block, num_blocks);
    Fetch(*args.next_value_rows, args.head_dim, block, num_blocks);
    kAttendRows[rows - 1](args, row);
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
                                     .attend_few = AttendFew,
                                     .max_few = kMaxFew,
                                     .natural_order = NaturalOrder,
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
