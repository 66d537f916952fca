// Few rows, bf16: the dot products of attention_kernel_bf16.cc from keys and values as they lie,
// transposed or paired up in registers. The same bits.
#include "kernels/attention_few_bf16.h"

#include <hwy/base.h>

#if HWY_ARCH_X86_64
#include <algorithm>
#include <iterator>

#include "kernels/attention_bf16_inl.h"
#include "kernels/attention_few_inl.h"
#include "kernels/cpu_features.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace ringserve {
namespace {

// Probabilities between the two parts: kPairs of each row.
uint32_t* Pairs(const AttendArgs& args) {
  return reinterpret_cast<uint32_t*>(args.probabilities);
}

// Adds pairs [pair, pair + kCount) of kBlocks times 16 keys to their scores.
template <int R, int kBlocks, int kCount, class Rows, class Fetcher>
HWY_INLINE void AddPairs(const Rows& rows,
                         const uint32_t* q,
                         int64_t pair,
                         __m512 (&sum)[kBlocks][R],
                         Fetcher& fetcher) {
  const int32_t pairs = rows.head_dim() / 2;
  __m512i block[kBlocks][8];
  HWY_UNROLL(2)
  for (int64_t b = 0; b < kBlocks; ++b) {
    LoadTransposed<kCount>(rows.From(16 * b), pair, block[b]);
  }
  HWY_UNROLL(8)
  for (int64_t i = 0; i < kCount; ++i) {
    fetcher.Step();
    HWY_UNROLL(8)
    for (int64_t r = 0; r < R; ++r) {
      const __m512bh element = Broadcast(q + int64_t{r} * pairs + pair + i);
      HWY_UNROLL(2)
      for (int64_t b = 0; b < kBlocks; ++b) {
        sum[b][r] = _mm512_dpbf16_ps(sum[b][r], AsBf16(block[b][i]), element);
      }
    }
  }
}

// scores[r][key] = q of row r . key, for kBlocks times 16 keys as they lie.
template <int R, int kBlocks, class Rows, class Fetcher>
HWY_INLINE void ScoreBlocks(const Rows& rows, const uint32_t* q, float* scores, Fetcher& fetcher) {
  __m512 sum[kBlocks][R];
  HWY_UNROLL(2)
  for (int64_t b = 0; b < kBlocks; ++b) {
    HWY_UNROLL(8)
    for (int64_t r = 0; r < R; ++r) {
      sum[b][r] = _mm512_setzero_ps();
    }
  }
  const int32_t pairs = rows.head_dim() / 2;
  int64_t pair = 0;
  for (; pair + 8 <= pairs; pair += 8) {
    AddPairs<R, kBlocks, 8>(rows, q, pair, sum, fetcher);
  }
  if (pair < pairs) {
    AddPairs<R, kBlocks, 4>(rows, q, pair, sum, fetcher);
  }
  HWY_UNROLL(2)
  for (int64_t b = 0; b < kBlocks; ++b) {
    HWY_UNROLL(8)
    for (int64_t r = 0; r < R; ++r) {
      _mm512_store_ps(scores + r * kGroupKeys + 16 * b, sum[b][r]);
    }
  }
}

template <int R, class Rows>
void ScoreRows(const AttendArgs& args) {
  // Few rows are few chains of products, too few to hide their latency: two blocks of keys then
  // run side by side.
  constexpr int32_t kBlocks = R <= 4 ? 2 : 1;
  const Rows rows(args.key_rows, args.next, args.head_dim);
  const auto* q = static_cast<const uint32_t*>(args.q);
  alignas(64) float scores[R * kGroupKeys];
  for (int64_t half = 0; half < 2; ++half) {
    typename Rows::template Fetcher<kBlocks, true> fetcher(rows, half);
    for (int64_t key = half * kHalf; key < (half + 1) * kHalf; key += int64_t{16} * kBlocks) {
      ScoreBlocks<R, kBlocks>(rows.From(key), q, scores + key, fetcher);
    }
  }
  rows.FetchBeyond();
  SoftmaxRows<R>(args, 0, scores, Pairs(args), args.correction);
}

// Accumulates kHalfPairs pairs of values as they lie, from `pair` on, for kVecs vectors of
// dimensions from `dim` on.
template <int R, int64_t kVecs, class Rows, class Fetcher>
HWY_INLINE void AccumulateHalf(
    const AttendArgs& args, const Rows& rows, int64_t dim, int64_t pair, Fetcher& fetcher) {
  const int32_t padded = RoundUp(rows.head_dim(), kDimUnit);
  float* acc = args.acc + dim;
  const uint32_t* p = Pairs(args);
  __m512 sum[R][kVecs];
  for (int64_t r = 0; r < R; ++r) {
    for (int64_t v = 0; v < kVecs; ++v) {
      sum[r][v] = _mm512_load_ps(acc + int64_t{r} * padded + 16 * v);
      if (pair == 0) {
        sum[r][v] =
            _mm512_fmadd_ps(sum[r][v], _mm512_set1_ps(args.correction[r]), _mm512_setzero_ps());
      }
    }
  }
  const int64_t last = std::min<int64_t>(32, rows.head_dim() - dim - 16 * (kVecs - 2));
  const auto mask = static_cast<__mmask32>((uint64_t{1} << last) - 1);
  for (int64_t i = pair; i < pair + kHalfPairs; ++i) {
    fetcher.Step();
    __m512i value[kVecs];
    for (int64_t v = 0; v < kVecs; v += 2) {
      const int64_t offset = 2 * (int64_t{dim} + 16 * v);
      const __mmask32 part = v + 2 == kVecs ? mask : ~__mmask32{0};
      const __m512i a = _mm512_maskz_loadu_epi16(part, rows[2 * i] + offset);
      const __m512i b = _mm512_maskz_loadu_epi16(part, rows[2 * i + 1] + offset);
      value[v] = PairLow(a, b);
      value[v + 1] = PairHigh(a, b);
    }
    for (int64_t r = 0; r < R; ++r) {
      const __m512bh both = Broadcast(p + r * kPairs + i);
      for (int64_t v = 0; v < kVecs; ++v) {
        sum[r][v] = _mm512_dpbf16_ps(sum[r][v], AsBf16(value[v]), both);
      }
    }
  }
  for (int64_t r = 0; r < R; ++r) {
    for (int64_t v = 0; v < kVecs; ++v) {
      _mm512_store_ps(acc + int64_t{r} * padded + 16 * v, sum[r][v]);
    }
  }
}

// Half a group after the other, so that lines are read about in the order in which they lie.
template <int R, class Rows>
void AccumulateRows(const AttendArgs& args) {
  constexpr int64_t kVecs = R <= 4 ? 4 : 2;
  const Rows rows(args.value_rows, args.next, args.head_dim);
  for (int64_t half = 0; half < 2; ++half) {
    const int64_t pair = half * kHalfPairs;
    typename Rows::template Fetcher<kVecs, kVecs == 2> fetcher(rows, half);
    int64_t dim = 0;
    for (; dim + 16 * kVecs <= rows.head_dim(); dim += 16 * kVecs) {
      AccumulateHalf<R, kVecs>(args, rows, dim, pair, fetcher);
    }
    for (; dim < rows.head_dim(); dim += 32) {
      AccumulateHalf<R, 2>(args, rows, dim, pair, fetcher);
    }
  }
}

using FewFunction = void (*)(const AttendArgs&);

template <class Rows>
constexpr FewFunction kScoreRows[] = {ScoreRows<1, Rows>,
                                      ScoreRows<2, Rows>,
                                      ScoreRows<3, Rows>,
                                      ScoreRows<4, Rows>,
                                      ScoreRows<5, Rows>,
                                      ScoreRows<6, Rows>,
                                      ScoreRows<7, Rows>,
                                      ScoreRows<8, Rows>};
template <class Rows>
constexpr FewFunction kAccumulateRows[] = {AccumulateRows<1, Rows>,
                                           AccumulateRows<2, Rows>,
                                           AccumulateRows<3, Rows>,
                                           AccumulateRows<4, Rows>,
                                           AccumulateRows<5, Rows>,
                                           AccumulateRows<6, Rows>,
                                           AccumulateRows<7, Rows>,
                                           AccumulateRows<8, Rows>};
static_assert(std::size(kScoreRows<ListedRows>) == kMaxFewBf16);
static_assert(std::size(kAccumulateRows<ListedRows>) == kMaxFewBf16);

}  // namespace

void ScoreFewBf16(const AttendArgs& args) {
  const int32_t row = args.num_rows - 1;
  const bool first_level = FetchesIntoFirstLevel();
  switch (DenseDim(args.key_rows, args)) {
    case 64:
      return (first_level ? kScoreRows<DenseRows<64, true>> : kScoreRows<DenseRows<64>>)[row](args);
    case 128:
      return (first_level ? kScoreRows<DenseRows<128, true>>
                          : kScoreRows<DenseRows<128>>)[row](args);
    default:
      return kScoreRows<ListedRows>[row](args);
  }
}

void AccumulateFewBf16(const AttendArgs& args) {
  const int32_t row = args.num_rows - 1;
  const bool first_level = FetchesIntoFirstLevel();
  switch (DenseDim(args.value_rows, args)) {
    case 64:
      return (first_level ? kAccumulateRows<DenseRows<64, true>>
                          : kAccumulateRows<DenseRows<64>>)[row](args);
    case 128:
      return (first_level ? kAccumulateRows<DenseRows<128, true>>
                          : kAccumulateRows<DenseRows<128>>)[row](args);
    default:
      return kAccumulateRows<ListedRows>[row](args);
  }
}

}  // namespace ringserve

HWY_POP_ATTRIBUTES

#endif
