// Few rows, bf16: the dot products of attention_kernel_bf16.cc from keys and values as they lie,
// transposed or paired up in registers. The same bits.
#include "kernels/attention_few_bf16.h"

#include <hwy/base.h>

#if HWY_ARCH_X86_64
#include <algorithm>
#include <iterator>

#include "kernels/attention_bf16_inl.h"

HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace ringserve {
namespace {

// Probabilities between the two parts: kPairs of each row.
uint32_t* Pairs(const AttendArgs& args) {
  return reinterpret_cast<uint32_t*>(args.probabilities);
}

using PlaneFetcher = Fetcher<_MM_HINT_T0>;

constexpr int32_t kStepsOfPairs = 4;  // of a fetcher in AddPairs

// Adds pairs [pair, pair + kCount) of kBlocks times 16 keys to their scores.
template <int R, int kBlocks, int kCount>
HWY_INLINE void AddPairs(const PlaneRows& rows,
                         const uint32_t* q,
                         int32_t pairs,
                         int64_t pair,
                         __m512 (&sum)[kBlocks][R],
                         PlaneFetcher& fetcher) {
  __m512i block[kBlocks][8];
  HWY_UNROLL(2)
  for (int64_t b = 0; b < kBlocks; ++b) {
    LoadTransposed<kCount>({rows.rows + 16 * b, rows.offset}, pair, block[b]);
  }
  HWY_UNROLL(8)
  for (int64_t i = 0; i < kCount; ++i) {
    if (i % (8 / kStepsOfPairs) == 0) {
      fetcher.Step();
    }
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

// scores[r][key] = q of row r . key, from the keys as they lie.
template <int R>
void ScoresFew(const AttendArgs& args, float* scores) {
  const int32_t pairs = args.head_dim / 2;
  const auto* q = static_cast<const uint32_t*>(args.q);
  // Few rows are few chains of products, too few to hide their latency: two blocks of keys then
  // run side by side.
  constexpr int kBlocks = R <= 4 ? 2 : 1;
  PlaneFetcher fetcher(
      args.next, args.head_dim, kStepsOfPairs * CeilDiv(pairs, 8) * (kGroupKeys / 16 / kBlocks));
  for (int64_t first_key = 0; first_key < kGroupKeys; first_key += 16 * kBlocks) {
    const PlaneRows rows = {args.key_rows.rows + first_key, args.key_rows.offset};
    __m512 sum[kBlocks][R];
    HWY_UNROLL(2)
    for (int64_t b = 0; b < kBlocks; ++b) {
      HWY_UNROLL(8)
      for (int64_t r = 0; r < R; ++r) {
        sum[b][r] = _mm512_setzero_ps();
      }
    }
    int64_t pair = 0;
    for (; pair + 8 <= pairs; pair += 8) {
      AddPairs<R, kBlocks, 8>(rows, q, pairs, pair, sum, fetcher);
    }
    if (pair < pairs) {
      AddPairs<R, kBlocks, 4>(rows, q, pairs, pair, sum, fetcher);
    }
    HWY_UNROLL(2)
    for (int64_t b = 0; b < kBlocks; ++b) {
      HWY_UNROLL(8)
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
                   const float* correction,
                   PlaneFetcher& fetcher) {
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
  const int64_t last = std::min<int64_t>(32, args.head_dim - dim - 16 * (V - 2));
  const auto mask = static_cast<__mmask32>((uint64_t{1} << last) - 1);
  for (int64_t i = 0; i < kPairs; ++i) {
    const std::byte* rows[2] = {args.value_rows[2 * i], args.value_rows[2 * i + 1]};
    fetcher.Step();
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

template <int R>
void ScoreRows(const AttendArgs& args) {
  alignas(64) float scores[R * kGroupKeys];
  ScoresFew<R>(args, scores);
  SoftmaxRows<R>(args, 0, scores, Pairs(args), args.correction);
}

template <int R>
void AccumulateRows(const AttendArgs& args) {
  constexpr int32_t kStepDims = R <= 4 ? 64 : 32;
  PlaneFetcher fetcher(
      args.next, args.head_dim, static_cast<int32_t>(kPairs) * CeilDiv(args.head_dim, kStepDims));
  const uint32_t* p = Pairs(args);
  int64_t dim = 0;
  if constexpr (R <= 4) {
    for (; dim + 64 <= args.head_dim; dim += 64) {
      AccumulateFew<R, 4>(args, dim, p, args.correction, fetcher);
    }
  }
  for (; dim < args.head_dim; dim += 32) {
    AccumulateFew<R, 2>(args, dim, p, args.correction, fetcher);
  }
}

constexpr void (*kScoreRows[])(const AttendArgs&) = {ScoreRows<1>,
                                                     ScoreRows<2>,
                                                     ScoreRows<3>,
                                                     ScoreRows<4>,
                                                     ScoreRows<5>,
                                                     ScoreRows<6>,
                                                     ScoreRows<7>,
                                                     ScoreRows<8>};
constexpr void (*kAccumulateRows[])(const AttendArgs&) = {AccumulateRows<1>,
                                                          AccumulateRows<2>,
                                                          AccumulateRows<3>,
                                                          AccumulateRows<4>,
                                                          AccumulateRows<5>,
                                                          AccumulateRows<6>,
                                                          AccumulateRows<7>,
                                                          AccumulateRows<8>};
static_assert(std::size(kScoreRows) == kMaxFewBf16);
static_assert(std::size(kAccumulateRows) == kMaxFewBf16);

}  // namespace

void ScoreFewBf16(const AttendArgs& args) {
  kScoreRows[args.num_rows - 1](args);
}

void AccumulateFewBf16(const AttendArgs& args) {
  kAccumulateRows[args.num_rows - 1](args);
}

}  // namespace ringserve

HWY_POP_ATTRIBUTES

#endif
