// Attention with the bf16 dot product of AVX-512 (vdpbf16ps). Pairs of dimensions (for q.k) and
// pairs of keys (for p.v) lie side by side in a 32-bit lane:
//   keys    [head_dim / 2][64 keys]   a transposed group: a lane is a key, no horizontal sums
//   values  [32 pairs of keys][padded head_dim]
// A score is one chain of products along head_dim in ascending order, an output one chain along the
// keys, for any number of rows.
#include <hwy/base.h>

#include "kernels/attention_kernel.h"
#include "kernels/cpu_features.h"

#if HWY_ARCH_X86_64
#include <algorithm>
#include <iterator>

#include "kernels/attention_bf16_inl.h"
#include "kernels/attention_few_bf16.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace ringserve {
namespace {

// Rows that share a loaded key or value: 6 x 4 accumulators of the 32 registers.
constexpr int32_t kRows = 6;

template <int kCount>
HWY_INLINE void PackPairs(const PlaneRows& rows, int64_t pair, uint32_t* out) {
  __m512i block[8];
  LoadTransposed<kCount>(rows, pair, block);
  for (int64_t i = 0; i < kCount; ++i) {
    _mm512_store_si512(out + int64_t{pair + i} * kGroupKeys, block[i]);
  }
}

void PackKeys(const PlaneRows& rows, DType /*bf16*/, int32_t head_dim, void* packed) {
  const int32_t pairs = head_dim / 2;  // a multiple of 4
  for (int64_t first_key = 0; first_key < kGroupKeys; first_key += 16) {
    const PlaneRows from = rows.From(first_key);
    auto* out = static_cast<uint32_t*>(packed) + first_key;
    int64_t pair = 0;
    for (; pair + 8 <= pairs; pair += 8) {
      PackPairs<8>(from, pair, out);
    }
    if (pair < pairs) {
      PackPairs<4>(from, pair, out);
    }
  }
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

void PackValues(const PlaneRows& rows, DType /*bf16*/, int32_t head_dim, void* packed) {
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

// Many rows read a group for long, so the whole of the next one is fetched meanwhile, into the
// second level.
void Attend(const AttendArgs& args) {
  const int32_t num_blocks = CeilDiv(args.num_rows, kRows);
  const int32_t row_bytes = 2 * args.head_dim;
  const int32_t num_lines = CeilDiv(kGroupKeys * CeilDiv(row_bytes, 64), num_blocks);
  LineFetcher<2> keys(args.next, 0, kGroupKeys, row_bytes);
  LineFetcher<2> values(args.next_values, 0, kGroupKeys, row_bytes);
  int32_t row = 0;
  for (int32_t block = 0; block < num_blocks; ++block) {
    const int32_t rows = CeilDiv(args.num_rows - row, num_blocks - block);
    keys.Fetch(num_lines);
    values.Fetch(num_lines);
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
                                     .score_few = ScoreFewBf16,
                                     .accumulate_few = AccumulateFewBf16,
                                     .max_few = kMaxFewBf16,
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
